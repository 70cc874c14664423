# Cascade Mask R-CNN with CoTNeXt-50 on COCO, as with CoTNet-50 (CoTNet, section 4.2).
# The paper (table 8) reports 47.63 box AP and 40.76 mask AP.
# Parameters and multiply-adds at 800 x 1280: 85.75M and 2170.5G here, with three mask
# heads on 1000 boxes each.
_base_ = './cascade_mask_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='next50',
        init_cfg=dict(checkpoint='checkpoints/cotnext50_in1k.pth'),
    )
)
