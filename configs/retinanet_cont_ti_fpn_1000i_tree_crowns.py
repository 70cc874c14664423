# RetinaNet with ConT-Ti on the tree crowns of the quickstart: 1000 iterations from scratch, about
# five minutes on two cores without a GPU.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    '_base_/tree_crowns_detection.py',
    '_base_/adamw_small_data.py',
]
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)

norm_cfg = dict(type='GN', num_groups=16, requires_grad=True)
model = dict(
    backbone=dict(
        _delete_=True, type='ConTNet', arch='ti', downsample='pool', out_indices=(1, 2, 3)
    ),
    # Crowns are 10 to 110 pixels wide and of one class: three levels, half of the usual
    # convolutions and 96 channels do, and leave the time to the backbone.
    neck=dict(
        in_channels=[192, 384, 768],
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
    # Seen from above, crowns hardly overlap.
    test_cfg=dict(nms=dict(iou_threshold=0.4)),
)

max_iters = 1000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=250)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
default_hooks = dict(
    logger=dict(interval=25),  # divides the intervals of validation: its points get exact places
    checkpoint=dict(by_epoch=False, interval=100, max_keep_ckpts=2),
)
log_processor = dict(by_epoch=False, window_size=25)
randomness = dict(seed=0)
