# ConT-Ti on 4,000 handwritten digits (tools/prepare_digits.py): three epochs from scratch, some
# minutes on two cores without a GPU. Validation is on 1,000 other digits.
_base_ = [
    '_base_/cont_classifier.py',
    '_base_/adamw_small_data.py',
    'mmpretrain::_base_/default_runtime.py',
]

model = dict(
    # On images of 56 pixels the stages' maps have sides of 14, 7, 4 and 2. The usual patches would
    # be padding for the most part, and take six times as long.
    backbone=dict(arch='ti', patch_sizes=((7, 14), (7, 7), (4, 4), (2, 2))),
    head=dict(num_classes=10, in_channels=768, topk=(1,)),
)
data_preprocessor = dict(num_classes=10, mean=[33.3] * 3, std=[78.6] * 3)

pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=56),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset', data_root='data/digits/', data_prefix='train', pipeline=pipeline
    ),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset', data_root='data/digits/', data_prefix='val', pipeline=pipeline
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

epochs = 3
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
param_scheduler = dict(
    type='OneCycleLR', eta_max=1e-3, total_steps=epochs, by_epoch=True, convert_to_iter_based=True
)
default_hooks = dict(logger=dict(interval=25))
randomness = dict(seed=0)
