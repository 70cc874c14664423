# RetinaNet with ResNet-50 on COCO at image scale (1344, 784): what the ConTNet paper compares with.
# The paper (table 5) reports 36.5 box AP.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    './_base_/coco_detection_1344x784.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
# 8 GPUs x 2 images; --auto-scale-lr adapts it to other numbers.
optim_wrapper = dict(optimizer=dict(lr=0.01))
