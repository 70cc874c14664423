# RetinaNet with ConT-S, from scratch, on the tree crowns of the quickstart.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    '_base_/tree_crowns_detection.py',
]
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)

norm_cfg = dict(type='GN', num_groups=16, requires_grad=True)
model = dict(
    backbone=dict(
        _delete_=True, type='ConTNet', arch='s', downsample='pool', out_indices=(1, 2, 3)
    ),
    # A crown is 20 to 110 pixels wide and always a crown: three levels, half the usual head's depth
    # and fewer channels do, and save time on a CPU.
    neck=dict(
        in_channels=[256, 512, 1024],
        out_channels=96,
        start_level=0,
        add_extra_convs=False,
        num_outs=3,
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(
        num_classes=1,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        anchor_generator=dict(octave_base_scale=3, strides=[8, 16, 32]),
    ),
)

max_iters = 600
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=150)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'position': dict(decay_mult=0.0)}
    ),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(by_epoch=False, interval=100, max_keep_ckpts=2),
)
log_processor = dict(by_epoch=False, window_size=20)
randomness = dict(seed=0)
