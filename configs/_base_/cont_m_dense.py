# ConT-M with outputs for dense prediction, for the configs that put it in place of their ResNet-50:
#     model = dict(backbone=dict(_delete_=True, **_base_.cont_m, out_indices=...))
# Detectors pad batches to multiples of 112, which is 8 x 14: then the patches 7 and 14 need no
# padding on the maps of the first two stages. With mmdet's 32, 784 rows become 800.
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
cont_m = dict(
    type='ConTNet',
    arch='m',
    # Stride-1 last convolutions and average pooling: outputs at strides 4/8/16/32.
    downsample='pool',
    # ImageNet weights, made from the authors' file by tools/convert_checkpoint.py (see README).
    # To train from scratch instead:
    #   --cfg-options model.backbone.init_cfg=None model.backbone.frozen_stages=-1
    #     model.backbone.norm_eval=False
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/cont_m_in1k.pth', prefix='backbone.'),
)
