# ACmix in PVT as an ImageNet classifier, trained as PVT is (its section 5.1), which is as DeiT:
# AdamW, 300 epochs, batch 1024, RandAugment and random erasing (mmpretrain has them under Swin's
# name), mixup or cutmix in every batch, and repeated augmentation: an epoch takes a third of the
# images, three versions of each. ACmix's paper gives its training in an appendix that is not
# published with it.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='PVTACmix', arch='t', drop_path_rate=0.1),
    neck=dict(type='PVTACmixNeck', in_channels=512),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=512,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
train_dataloader = dict(batch_size=128, sampler=dict(type='RepeatAugSampler'))

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        # No decay on norms, biases, position encodings and ACmix's rates.
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys=dict(position=dict(decay_mult=0.0)),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    # To the last epoch, whatever that is.
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=1024)
