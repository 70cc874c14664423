# PVT-ACmix-T for dense prediction, for the configs that put it in place of their ResNet-50:
#     model = dict(backbone=dict(_delete_=True, **_base_.pvt_acmix_t, out_indices=...))
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
pvt_acmix_t = dict(
    type='PVTACmix',
    arch='t',
    drop_path_rate=0.1,
    # ImageNet weights: none were released, this is a checkpoint of pvt_acmix_t_8xb128_in1k.py.
    # To train from scratch instead: --cfg-options model.backbone.init_cfg=None
    init_cfg=dict(
        type='Pretrained', checkpoint='checkpoints/pvt_acmix_t_in1k.pth', prefix='backbone.'
    ),
)
