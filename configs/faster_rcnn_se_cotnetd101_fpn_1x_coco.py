# Faster R-CNN with SE-CoTNetD-101 on COCO, as with CoTNet-50. Not the paper but
# the authors' released results have it: 45.66 box AP.
# Parameters and multiply-adds at 800 x 1280: 58.42M and 409.5G here.
_base_ = './faster_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='se-d101',
        init_cfg=dict(checkpoint='checkpoints/se_cotnetd101_in1k.pth'),
    )
)
