# Mask R-CNN with ConT-Ti overfits four tiles of nuclei: 100 iterations from scratch, and
# validation on these same tiles. It shows that everything works together, not how well it
# generalises.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    '_base_/nuclei_instance.py',
    '_base_/adamw_small_data.py',
]
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)

# Nuclei are 20 to 60 pixels wide: three levels and narrow heads do.
strides = [4, 8, 16]
channels = 64
norm_cfg = dict(type='GN', num_groups=16, requires_grad=True)
roi_extractor = dict(out_channels=channels, featmap_strides=strides)
model = dict(
    backbone=dict(
        _delete_=True, type='ConTNet', arch='ti', downsample='pool', out_indices=(0, 1, 2)
    ),
    neck=dict(in_channels=[96, 192, 384], out_channels=channels, num_outs=3, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(strides=strides),
    ),
    roi_head=dict(
        bbox_roi_extractor=roi_extractor,
        bbox_head=dict(in_channels=channels, fc_out_channels=256, num_classes=1),
        mask_roi_extractor=roi_extractor,
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=1,
            norm_cfg=norm_cfg,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=128))
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)

max_iters = 100
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=50)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
val_dataloader = dict(
    dataset=dict(ann_file='annotations/train.json', data_prefix=dict(img='train/'))
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/nuclei/annotations/train.json')
test_evaluator = val_evaluator

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=20, end=max_iters),
]
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(by_epoch=False, interval=50, max_keep_ckpts=1)
)
log_processor = dict(by_epoch=False, window_size=10)
randomness = dict(seed=0)
