# Cascade Mask R-CNN with CoTNet-50 on COCO (CoTNet, section 4.3), 8 GPUs x 2 images.
# The paper (table 8) reports 46.94 box AP and 40.25 mask AP, where ResNet-50 has 43.06 and 37.19.
_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
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

# The shorter side is between 640 and 800 pixels.
scales = [(1333, side) for side in range(640, 801, 32)]
train_pipeline = [
    dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)
    if step.type == 'Resize'
    else step
    for step in _base_.train_pipeline
]
del scales
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
