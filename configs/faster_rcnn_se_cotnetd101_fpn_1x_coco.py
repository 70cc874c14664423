# Faster R-CNN with SE-CoTNetD-101 on COCO, as with CoTNet-50.
# The authors' release, not the paper, reports 45.66 box AP.
_base_ = './faster_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='se-d101',
        init_cfg=dict(checkpoint='checkpoints/se_cotnetd101_in1k.pth'),
    )
)
