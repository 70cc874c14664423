# The default training of CoTNet on ImageNet-1k (section 4.1): SGD, batch 512, "around 100 epochs",
# a learning rate of 0.1 x 512 / 256 after five epochs of warm-up, cosine, label smoothing, crops
# and flips, and an EMA of the weights.
#
# Not printed: Nesterov momentum, bicubic interpolation, the rates at both ends and no weight decay
# on norms and biases are those of the authors' released recipe, which is the advanced one; the
# weight decay is ResNet's.
_base_ = [
    './cotnet_classifier.py',
    'mmpretrain::_base_/datasets/imagenet_bs32_pil_bicubic.py',
    'mmpretrain::_base_/default_runtime.py',
]
# CoTNet's layers cannot train on a last batch of one image.
train_dataloader = dict(batch_size=64, drop_last=True)
val_dataloader = dict(batch_size=64)
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.2, momentum=0.9, nesterov=True, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=5e-4, by_epoch=True, end=5, convert_to_iter_based=True),
    # To the last epoch, whatever that is.
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5),
]
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=512)

# A decay of 0.9999, BatchNorm's statistics included. What is validated and saved is the EMA;
# for the paper's results without it add --cfg-options custom_hooks="[]".
custom_hooks = [dict(type='EMAHook', momentum=1 - 0.9999, update_buffers=True)]
