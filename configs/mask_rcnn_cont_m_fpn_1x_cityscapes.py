# Mask R-CNN with ConT-M on Cityscapes' instances, mmdet's 1x protocol for them (64 epochs). The
# ConTNet paper has no such table; mmdet reports 40.9 box AP and 36.4 mask AP for ResNet-50 that
# starts from COCO.
_base_ = [
    'mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py',
    './_base_/cont_m_dense.py',
]

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

# mmdet's 2048 x 1024, and its shorter sides from 800 on, become the nearest multiples of 112, as
# the paper does with COCO's scale: 18 x 9, and from 7 on.
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=[(2016, 784), (2016, 1008)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(2016, 1008), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# mmdet's starts from its COCO weights of ResNet-50. To do the same:
#   --cfg-options load_from=work_dirs/mask_rcnn_cont_m_fpn_1x_coco/epoch_12.pth
# (the layers that depend on the number of classes start afresh, and mmengine says so).
load_from = None

# The learning rate, 0.01, is for 8 GPUs x 1 image.
auto_scale_lr = dict(base_batch_size=8)
