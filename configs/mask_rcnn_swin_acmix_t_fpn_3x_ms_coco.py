# Mask R-CNN with Swin-ACmix-T on COCO for 36 epochs at several scales (ACmix, section 5.2), 8 GPUs
# x 2 images.
# The paper (table 4) reports 47.0 box AP, where Swin-T has 46.0.
#
# The paper prints no recipe; this is Swin's, the drop path rate too.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    './_base_/swin_3x_ms_coco.py',
    './_base_/swin_acmix_dense.py',
]

model = dict(
    backbone=dict(_delete_=True, **_base_.swin_acmix_t, drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
