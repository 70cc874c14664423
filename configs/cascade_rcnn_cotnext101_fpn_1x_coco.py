# Cascade R-CNN with CoTNeXt-101 on COCO, as with CoTNet-50 (CoTNet, section 4.2).
# The paper (table 7) reports 49.02 box AP.
# Parameters and multiply-adds at 800 x 1280: 101.12M and 658.8G here.
_base_ = './cascade_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='next101',
        init_cfg=dict(checkpoint='checkpoints/cotnext101_in1k.pth'),
    )
)
