# Cascade R-CNN with CoTNeXt-50 on COCO, as with CoTNet-50 (CoTNet, section 4.2).
# The paper (table 7) reports 46.79 box AP.
# Parameters and multiply-adds at 800 x 1280: 77.82M and 580.9G here.
_base_ = './cascade_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='next50',
        init_cfg=dict(checkpoint='checkpoints/cotnext50_in1k.pth'),
    )
)
