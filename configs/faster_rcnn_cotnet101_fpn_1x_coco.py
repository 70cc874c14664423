# Faster R-CNN with CoTNet-101 on COCO, as with CoTNet-50 (CoTNet, section 4.2).
# The paper (table 7) reports 45.35 box AP.
_base_ = './faster_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='101',
        init_cfg=dict(checkpoint='checkpoints/cotnet101_in1k.pth'),
    )
)
