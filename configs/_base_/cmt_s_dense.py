# CMT-S for dense prediction, for the configs that put it in place of their ResNet-50:
#     model = dict(backbone=dict(_delete_=True, **_base_.cmt_s, out_indices=...))
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
cmt_s = dict(
    type='CMT',
    arch='s',
    drop_path_rate=0.1,
    # ImageNet weights, made from the authors' file by tools/convert_checkpoint.py (see README).
    # To train from scratch instead:
    #   --cfg-options model.backbone.init_cfg=None model.backbone.norm_eval=False
    init_cfg=dict(type='Pretrained', checkpoint='checkpoints/cmt_s_in1k.pth', prefix='backbone.'),
)
