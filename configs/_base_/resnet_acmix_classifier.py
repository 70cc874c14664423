# ACmix in ResNet as an ImageNet classifier, trained as mmpretrain trains ResNet: SGD, batch 256,
# 100 epochs, the learning rate divided by 10 at 30, 60 and 90. The paper gives its training in an
# appendix that is not published with it, and the authors' files name no other.
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
model = dict(backbone=dict(_delete_=True, type='ResNetACmix', arch='50'))
