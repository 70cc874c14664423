# Mask R-CNN with CoTNet-50 on COCO (CoTNet, section 4.3), 8 GPUs x 2 images.
# The paper (table 8) reports 44.06 box AP and 39.28 mask AP, where ResNet-50 has 39.97 and 36.05.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    './_base_/coco_instance_640_800.py',
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
