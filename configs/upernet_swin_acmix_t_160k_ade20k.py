# UperNet with Swin-ACmix-T on ADE20K, 160,000 iterations (ACmix, section 5.2), 8 GPUs x 2 images.
# The paper (table 2) reports 45.3 mIoU, where Swin-T has 44.5.
#
# The paper prints no recipe; this is Swin's as in mmseg, the drop path rate too.
_base_ = [
    './_base_/upernet.py',
    './_base_/swin_acmix_dense.py',
    './_base_/ade20k_512x512.py',
    './_base_/seg_adamw.py',
    './_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(**_base_.swin_acmix_t, drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

# ACmix's rates are not decayed either.
optim_wrapper = dict(paramwise_cfg=dict(flat_decay_mult=0.0))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))

# 8 GPUs x 2 images.
auto_scale_lr = dict(enable=False, base_batch_size=16)
