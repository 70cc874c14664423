# Cascade Mask R-CNN with SE-CoTNetD-50 on COCO, as with CoTNet-50. Not the paper but
# the authors' released results have it: 47.44 box AP and 40.73 mask AP.
# Parameters and multiply-adds at 800 x 1280: 78.82M and 2166.3G here, with three mask
# heads on 1000 boxes each.
_base_ = './cascade_mask_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='se-d50',
        init_cfg=dict(checkpoint='checkpoints/se_cotnetd50_in1k.pth'),
    )
)
