# Cascade R-CNN with CoTNet-50 on COCO (CoTNet, section 4.2), 8 GPUs x 2 images.
# The paper (table 7) reports 46.11 box AP, where ResNet-50 has 42.45.
_base_ = [
    'mmdet::_base_/models/cascade-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
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
    ),
)

# The shorter side is between 640 and 800 pixels.
train_pipeline = [
    dict(type='RandomResize', scale=[(1333, 640), (1333, 800)], keep_ratio=True)
    if step.type == 'Resize'
    else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
