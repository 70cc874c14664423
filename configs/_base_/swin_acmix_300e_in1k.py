# ACmix in Swin as an ImageNet classifier, trained as Swin is in mmpretrain: AdamW, 300 epochs,
# batch 1024, RandAugment, random erasing, mixup or cutmix. The paper gives its training in an
# appendix that is not published with it.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='SwinACmix', arch='t', drop_path_rate=0.2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=768,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
