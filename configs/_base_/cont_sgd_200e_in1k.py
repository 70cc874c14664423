# The ConTNet paper's SGD recipe (section 4.1): batch 512, 200 epochs, cosine, learning rate 0.2 for
# convolutions and 0.005 for the encoders.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=5e-5),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        # The first matching key hides every other rule, so the encoders' keys say both things:
        # 0.2 x 0.025 = 0.005 for all of them, and no decay on biases, norms and encodings.
        custom_keys={
            **{f'{layer}.weight': dict(lr_mult=0.025) for layer in ('qkv', 'proj', 'fc1', 'fc2')},
            **{
                key: dict(lr_mult=0.025, decay_mult=0.0)
                for key in (
                    'qkv.bias',
                    'proj.bias',
                    'fc1.bias',
                    'fc2.bias',
                    '.norm1.',
                    '.norm2.',
                    '.position.',
                )
            },
        },
    ),
)
param_scheduler = dict(type='CosineAnnealingLR', T_max=200, by_epoch=True, begin=0, end=200)
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=512)
