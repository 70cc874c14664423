# Mask R-CNN with CoTNet-50 on COCO (CoTNet, section 4.3), 8 GPUs x 2 images.
# The paper (table 8) reports 44.06 box AP and 39.28 mask AP, where ResNet-50 has 39.97 and 36.05.
# Parameters and multiply-adds at 800 x 1280: 42.38M and 356.6G here.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    './_base_/cotnet_1x.py',
]

model = dict(
    backbone=dict(_delete_=True, **_base_.cotnet50),
    neck=dict(norm_cfg=_base_.bn),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', norm_cfg=_base_.bn),
        mask_head=dict(norm_cfg=_base_.bn),
    ),
)

# The shorter side is between 640 and 800 pixels.
train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomChoiceResize',
    scales=[(1333, side) for side in range(640, 801, 32)],
    keep_ratio=True,
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
