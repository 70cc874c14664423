# Cascade Mask R-CNN with SE-CoTNetD-50 on COCO, as with CoTNet-50.
# The authors' release, not the paper, reports 47.44 box AP and 40.73 mask AP.
_base_ = './cascade_mask_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='se-d50',
        init_cfg=dict(checkpoint='checkpoints/se_cotnetd50_in1k.pth'),
    )
)
