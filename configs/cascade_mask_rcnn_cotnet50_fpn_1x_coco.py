# Cascade Mask R-CNN with CoTNet-50 on COCO (CoTNet, section 4.3), 8 GPUs x 2 images.
# The paper (table 8) reports 46.94 box AP and 40.25 mask AP, where ResNet-50 has 43.06 and 37.19.
_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py',
    './_base_/coco_instance_640_800.py',
    './_base_/cotnet_1x.py',
]

model = dict(
    backbone=dict(_delete_=True, **_base_.cotnet50),
    neck=dict(norm_cfg=_base_.bn),
    roi_head=dict(
        bbox_head=[
            dict(head, type='Shared4Conv1FCBBoxHead', norm_cfg=_base_.bn)
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_head=dict(norm_cfg=_base_.bn),
    ),
)
