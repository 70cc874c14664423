# The ConTNet paper's SGD recipe (section 4.1): batch 512, 200 epochs, cosine, learning rate 0.2 for
# convolutions and 0.005 for the encoders. Table 10 has other pairs:
#   --cfg-options optim_wrapper.optimizer.lr=0.1 optim_wrapper.paramwise_cfg.encoder_lr=0.001
optim_wrapper = dict(
    constructor='EncoderLrConstructor',
    optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=5e-5),
    paramwise_cfg=dict(
        encoder_lr=0.005,
        # No decay on norms, biases, position encodings and relative position bias tables.
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(position=dict(decay_mult=0.0)),
    ),
)
param_scheduler = dict(type='CosineAnnealingLR', T_max=200, by_epoch=True, begin=0, end=200)
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=512)
