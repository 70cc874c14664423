# Cascade Mask R-CNN with CoTNeXt-101 on COCO, as with CoTNet-50 (CoTNet, section 4.2).
# The paper (table 8) reports 49.35 box AP and 42.20 mask AP.
_base_ = './cascade_mask_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='next101',
        init_cfg=dict(checkpoint='checkpoints/cotnext101_in1k.pth'),
    )
)
