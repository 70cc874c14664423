# Cascade R-CNN with SE-CoTNetD-50 on COCO, as with CoTNet-50. Not the paper but
# the authors' released results have it: 46.77 box AP.
# Parameters and multiply-adds at 800 x 1280: 70.88M and 576.8G here.
_base_ = './cascade_rcnn_cotnet50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='se-d50',
        init_cfg=dict(checkpoint='checkpoints/se_cotnetd50_in1k.pth'),
    )
)
