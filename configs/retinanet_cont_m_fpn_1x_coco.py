# RetinaNet with ConT-M on COCO, mmdet's 1x schedule at image scale (1344, 784) (section 4.2).
# The paper (table 5) reports 37.9 box AP, where ResNet-50 has 36.5 in the same setting.
# Parameters and multiply-adds at 784 x 1344: 30.15M and 245.0G here, 27.0M and 217.2G in the paper.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='ConTNet',
        arch='m',
        # Stride-1 last convolutions and average pooling: outputs at strides 4/8/16/32.
        downsample='pool',
        # Only what the FPN uses: stage 0's output would leave parameters without a gradient.
        out_indices=(1, 2, 3),
        frozen_stages=1,
        norm_eval=True,
        # ImageNet weights, made from the authors' file by tools/convert_checkpoint.py (see README).
        # To train from scratch instead:
        #   --cfg-options model.backbone.init_cfg=None model.backbone.frozen_stages=-1
        #     model.backbone.norm_eval=False
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/cont_m_in1k.pth', prefix='backbone.'
        ),
    ),
    neck=dict(in_channels=[256, 512, 1024], start_level=0),
)

# The paper's image scale is a multiple of the patches 7 and 14 on the maps of the first two stages.
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(1344, 784), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(1344, 784), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# For tools/test.py --tta.
tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=scale, keep_ratio=True)
                for scale in ((1344, 784), (672, 392), (2016, 1176))
            ],
            [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
            [dict(type='LoadAnnotations', with_bbox=True)],
            [
                dict(
                    type='PackDetInputs',
                    meta_keys=(
                        'img_id',
                        'img_path',
                        'ori_shape',
                        'img_shape',
                        'scale_factor',
                        'flip',
                        'flip_direction',
                    ),
                )
            ],
        ],
    ),
]

# 8 GPUs x 2 images at learning rate 0.01, inherited; --auto-scale-lr adapts it to other numbers.
auto_scale_lr = dict(base_batch_size=16)
