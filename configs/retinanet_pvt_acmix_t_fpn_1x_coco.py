# RetinaNet with PVT-ACmix-T on COCO, mmdet's 1x schedule at image scale (1333, 800) (ACmix, section
# 5.2), 8 GPUs x 2 images.
# The paper (table 4) reports 40.5 box AP, where PVT-T has 36.7. Its MACs seem to be those of 800 x
# 1333 pixels.
#
# The paper prints no recipe; this is PVT's for RetinaNet: AdamW, 1e-4 for both the learning rate
# and the weight decay, nothing frozen. The drop path rate is ImageNet's.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    './_base_/pvt_acmix_dense.py',
]

model = dict(
    # The FPN starts at stride 8.
    backbone=dict(_delete_=True, **_base_.pvt_acmix_t, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[128, 320, 512], start_level=0),
)

optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4))
