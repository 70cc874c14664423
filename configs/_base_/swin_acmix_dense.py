# Swin-ACmix for dense prediction, for the configs that put it in place of their own backbone:
#     model = dict(backbone=dict(_delete_=True, **_base_.swin_acmix_t, drop_path_rate=...))
# Without pretrained weights: --cfg-options model.backbone.init_cfg=None
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
swin_acmix_t = dict(
    type='SwinACmix',
    arch='t',
    out_indices=(0, 1, 2, 3),
    # ImageNet weights, made from the authors' file by tools/convert_checkpoint.py (see README). The
    # norms of the first three outputs are not in it, and start as 1 and 0.
    init_cfg=dict(
        type='Pretrained', checkpoint='checkpoints/swin_acmix_t_in1k.pth', prefix='backbone.'
    ),
)
