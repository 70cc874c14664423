# Mask R-CNN with CoTNeXt-101 on COCO, as with CoTNet-50 (CoTNet, section 4.2).
# The paper (table 8) reports 46.66 box AP and 41.21 mask AP.
_base_ = './mask_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='next101',
        init_cfg=dict(checkpoint='checkpoints/cotnext101_in1k.pth'),
    )
)
