# RetinaNet with SAN-ACmix-19 on COCO, mmdet's 1x schedule at image scale (1333, 800) (ACmix,
# section 5.2), 8 GPUs x 2 images.
# The paper (table 3) reports 39.1 box AP, where SAN-19 has 38.2.
# Parameters and multiply-adds at 800 x 1280: 33.24M and 222.8G here, 233G in the paper, whose size
# seems to be 800 x 1333 (233.0G here).
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
        type='SANACmix',
        arch='19',
        # The FPN starts at stride 8.
        out_indices=(1, 2, 3),
        # As mmdet's ResNet-50: the stem and the first stage are frozen, BatchNorm keeps ImageNet's
        # statistics.
        frozen_stages=1,
        norm_eval=True,
        # ImageNet weights: none were released, this is a checkpoint of san_acmix19_8xb32_in1k.py.
        # To train from scratch instead: --cfg-options model.backbone.init_cfg=None
        #   model.backbone.frozen_stages=-1 model.backbone.norm_eval=False
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/san_acmix19_in1k.pth', prefix='backbone.'
        ),
    ),
    neck=dict(in_channels=[512, 1024, 2048], start_level=0),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
