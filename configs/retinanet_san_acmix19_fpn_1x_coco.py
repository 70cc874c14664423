# RetinaNet with SAN-ACmix-19 on COCO, mmdet's 1x schedule at image scale (1333, 800) (ACmix,
# section 5.2), 8 GPUs x 2 images.
# The paper (table 3) reports 39.1 box AP, where SAN-19 has 38.2. Its MACs seem to be those of 800 x
# 1333 pixels.
#
# The weights to start from were never released: they are a checkpoint of san_acmix19_8xb32_in1k.py.
_base_ = './retinanet_resnet_acmix50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='SANACmix',
        arch='19',
        init_cfg=dict(checkpoint='checkpoints/san_acmix19_in1k.pth'),
    )
)
