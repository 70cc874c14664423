# Faster R-CNN with ResNet-50 on COCO at image scale (1344, 784): what the ConTNet paper compares
# with.
# The paper (table 5) reports 37.4 box AP.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    './_base_/coco_detection_1344x784.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
