# Mask R-CNN with ResNet-50 on COCO at image scale (1344, 784): what the ConTNet paper compares
# with.
# The paper (table 6) reports 38.2 box AP and 34.7 mask AP.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    './_base_/coco_instance_1344x784.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
