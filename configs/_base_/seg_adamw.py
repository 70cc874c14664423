# AdamW as mmseg has it for UperNet with Swin and Twins; a config adds train_cfg, whose iterations
# the second schedule lasts for.
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        # No decay on norms, biases and position bias tables.
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(position=dict(decay_mult=0.0)),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, by_epoch=False),
]
