# RetinaNet with ConT-M on COCO, mmdet's 1x schedule at image scale (1344, 784) (section 4.2).
# The paper (table 5) reports 37.9 box AP, where ResNet-50 has 36.5 in the same setting.
_base_ = ['./retinanet_r50_fpn_1x_1344x784_coco.py', './_base_/cont_m_dense.py']

model = dict(
    data_preprocessor=dict(pad_size_divisor=112),  # see _base_/cont_m_dense.py
    backbone=dict(
        _delete_=True,
        **_base_.cont_m,
        # The FPN starts at stride 8.
        out_indices=(1, 2, 3),
        frozen_stages=1,
        norm_eval=True,
    ),
    neck=dict(in_channels=[256, 512, 1024], start_level=0),
)
