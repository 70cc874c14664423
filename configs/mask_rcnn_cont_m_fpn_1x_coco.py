# Mask R-CNN with ConT-M on COCO, mmdet's 1x schedule at image scale (1344, 784) (section 4.2).
# The paper (table 6) reports 40.5 box AP and 38.1 mask AP, where ResNet-50 has 38.2 and 34.7.
_base_ = ['./mask_rcnn_r50_fpn_1x_1344x784_coco.py', './_base_/cont_m_dense.py']

model = dict(
    data_preprocessor=dict(pad_size_divisor=112),  # see _base_/cont_m_dense.py
    backbone=dict(
        _delete_=True,
        **_base_.cont_m,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_eval=True,
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
