# Mask R-CNN with CoTNeXt-101 on COCO, as with CoTNet-50 (CoTNet, section 4.2).
# The paper (table 8) reports 46.66 box AP and 41.21 mask AP.
# Parameters and multiply-adds at 800 x 1280: 73.50M and 455.0G here.
_base_ = './mask_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='next101',
        init_cfg=dict(checkpoint='checkpoints/cotnext101_in1k.pth'),
    )
)
