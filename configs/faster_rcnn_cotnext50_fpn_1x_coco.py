# Faster R-CNN with CoTNeXt-50 on COCO, as with CoTNet-50 (CoTNet, section 4.2).
# The paper (table 7) reports 44.06 box AP.
_base_ = './faster_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='next50',
        init_cfg=dict(checkpoint='checkpoints/cotnext50_in1k.pth'),
    )
)
