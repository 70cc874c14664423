# Mask R-CNN with CoTNeXt-50 on COCO, as with CoTNet-50 (CoTNet, section 4.2).
# The paper (table 8) reports 44.47 box AP and 39.62 mask AP.
# Parameters and multiply-adds at 800 x 1280: 50.20M and 377.2G here.
_base_ = './mask_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='next50',
        init_cfg=dict(checkpoint='checkpoints/cotnext50_in1k.pth'),
    )
)
