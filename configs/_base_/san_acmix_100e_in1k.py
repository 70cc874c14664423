# ACmix in SAN as an ImageNet classifier, trained as SAN is (its section 5.1): SGD, batch 256, 100
# epochs, cosine, label smoothing; with mixup. ACmix's paper gives its training in an appendix that
# is not published with it.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/schedules/imagenet_bs256_coslr.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='SANACmix', arch='10'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=2048,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5),
    ),
    train_cfg=dict(augments=dict(type='Mixup', alpha=0.2)),
)
