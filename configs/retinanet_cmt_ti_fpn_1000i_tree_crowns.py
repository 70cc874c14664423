# RetinaNet with CMT-Ti on the tree crowns, 1000 iterations from scratch: the config with ConT-Ti
# but for the backbone. A step of CMT-Ti takes nearly twice as long as ConT-Ti's.
_base_ = './retinanet_cont_ti_fpn_1000i_tree_crowns.py'

model = dict(
    # The images are crops of 224 x 224.
    backbone=dict(_delete_=True, type='CMT', arch='ti', img_size=224, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[92, 184, 368]),
)
