# The ConTNet paper's recipe with strong augmentation (section 4.1, tables 3 and 4): AdamW, mixup
# and auto-augmentation, which is rand-m9-mstd0.5-inc1 in the released recipe. Batch and epochs are
# not printed for it; they are those of the SGD recipe.
_base_ = [
    './cont_classifier.py',
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        # What rotations and shears leave empty gets the mean colour (in BGR order).
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        # No decay on norms, biases, position encodings and relative position bias tables.
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(position=dict(decay_mult=0.0)),
    ),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=10,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', T_max=190, by_epoch=True, begin=10, end=200),
]
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=512)
