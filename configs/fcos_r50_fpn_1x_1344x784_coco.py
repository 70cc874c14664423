# FCOS with ResNet-50 on COCO at image scale (1344, 784): what the ConTNet paper compares with.
# The paper (table 5) reports 36.6 box AP.
#
# Of mmdet's FCOS this is the plain one with GroupNorm in the head (fcos_r50-caffe_fpn_gn-head_1x),
# whose published AP, 36.6, is the paper's; those with centre sampling and GIoU have 38.7 and more.
# The backbone is the RetinaNet baseline's, in the pytorch style, with torchvision's weights.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    './_base_/coco_detection_1344x784.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]

model = dict(
    type='FCOS',
    neck=dict(add_extra_convs='on_output', relu_before_extra_convs=True),
    bbox_head=dict(
        _delete_=True,
        type='FCOSHead',
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        strides=[8, 16, 32, 64, 128],
        norm_cfg=dict(type='GN', num_groups=32, requires_grad=True),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='IoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    ),
    # FCOS assigns boxes by their size and place alone.
    train_cfg=None,
)

# mmdet's for FCOS, at 8 GPUs x 2 images.
optim_wrapper = dict(
    optimizer=dict(lr=0.01),
    paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='ConstantLR', factor=1.0 / 3, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
