# Mask R-CNN with CoTNet-101 on COCO, as with CoTNet-50 (CoTNet, section 4.2).
# The paper (table 8) reports 46.17 box AP and 40.86 mask AP.
_base_ = './mask_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='101',
        init_cfg=dict(checkpoint='checkpoints/cotnet101_in1k.pth'),
    )
)
