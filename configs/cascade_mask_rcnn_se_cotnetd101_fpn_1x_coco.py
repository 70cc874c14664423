# Cascade Mask R-CNN with SE-CoTNetD-101 on COCO, as with CoTNet-50. Not the paper but
# the authors' released results have it: 49.24 box AP and 42.38 mask AP.
# Parameters and multiply-adds at 800 x 1280: 96.62M and 2255.9G here, with three mask
# heads on 1000 boxes each.
_base_ = './cascade_mask_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='se-d101',
        init_cfg=dict(checkpoint='checkpoints/se_cotnetd101_in1k.pth'),
    )
)
