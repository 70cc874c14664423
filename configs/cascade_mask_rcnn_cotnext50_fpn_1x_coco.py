# Cascade Mask R-CNN with CoTNeXt-50 on COCO, as with CoTNet-50 (CoTNet, section 4.2).
# The paper (table 8) reports 47.63 box AP and 40.76 mask AP.
_base_ = './cascade_mask_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='next50',
        init_cfg=dict(checkpoint='checkpoints/cotnext50_in1k.pth'),
    )
)
