# RetinaNet with ResNet-ACmix-50 on COCO, mmdet's 1x schedule at image scale (1333, 800) (ACmix,
# section 5.2), 8 GPUs x 2 images.
# The paper (table 3) reports 38.3 box AP, where ResNet-50 has 36.7.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNetACmix',
        arch='50',
        # The FPN starts at stride 8.
        out_indices=(1, 2, 3),
        # As mmdet's ResNet-50: the stem and the first stage are frozen, BatchNorm keeps ImageNet's
        # statistics.
        frozen_stages=1,
        norm_eval=True,
        # ImageNet weights, made from the authors' file by tools/convert_checkpoint.py (see README).
        # To train from scratch instead: --cfg-options model.backbone.init_cfg=None
        #   model.backbone.frozen_stages=-1 model.backbone.norm_eval=False
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/resnet_acmix50_in1k.pth', prefix='backbone.'
        ),
    ),
    neck=dict(in_channels=[512, 1024, 2048], start_level=0),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
