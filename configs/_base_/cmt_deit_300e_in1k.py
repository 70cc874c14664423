# The training of CMT on ImageNet-1k (section 4.1), which is DeiT's: AdamW, 300 epochs, batch 1024,
# RandAugment and random erasing (mmpretrain has them under Swin's name), mixup or cutmix in every
# batch, and repeated augmentation: an epoch takes a third of the images, three versions of each.
#
# Numbers that the paper does not print are those of the authors' commands, whose learning rates are
# for a batch of 512 and grow with it. Left out is what these do beside the paper: an EMA of the
# weights (the released ones are the model's own) and ten last epochs at the lowest rate.
_base_ = [
    './cmt_classifier.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(drop_path_rate=0.1),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
train_dataloader = dict(batch_size=128, sampler=dict(type='RepeatAugSampler'))

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        # No decay on norms, biases and position bias tables.
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(position=dict(decay_mult=0.0)),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=20, convert_to_iter_based=True),
    # To the last epoch, whatever that is.
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=20),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=1024)
