# What the networks of a study have in common: Fashion-MNIST (tools/prepare_fashion_mnist.py) at
# 64 x 64 pixels, three epochs from scratch. Each network has about 70 million multiply-adds.
_base_ = ['../_base_/adamw_small_data.py', 'mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)

model = dict(
    type='ImageClassifier',
    backbone=dict(out_indices=(3,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, loss=dict(type='CrossEntropyLoss'), topk=(1,)),
)
data_preprocessor = dict(num_classes=10, mean=[72.9] * 3, std=[90.0] * 3)

dataset = dict(type='FashionMNIST', data_root='data/fashion_mnist', download=False)
train_dataloader = dict(
    batch_size=256,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        **dataset,
        split='train',
        pipeline=[
            dict(type='RandomCrop', crop_size=28, padding=2),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='Resize', scale=64),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        split='test',
        test_mode=True,
        pipeline=[dict(type='Resize', scale=64), dict(type='PackInputs')],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
del dataset

epochs = 3
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
param_scheduler = dict(
    type='OneCycleLR', eta_max=1e-3, total_steps=epochs, by_epoch=True, convert_to_iter_based=True
)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
