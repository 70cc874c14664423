# UperNet with CMT-S on ADE20K: 160,000 iterations as mmseg trains it with Swin and Twins. The CMT
# paper has no segmentation; the numbers are theirs, and the drop path rate is ImageNet's.
_base_ = [
    './_base_/upernet.py',
    './_base_/cmt_s_dense.py',
    './_base_/ade20k_512x512.py',
    './_base_/seg_adamw.py',
    './_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(**_base_.cmt_s, out_indices=(0, 1, 2, 3)),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)

# Two images are too few for the backbone's BatchNorm: like the heads', it counts those of all GPUs.
sync_bn = 'torch'

train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))

# 8 GPUs x 2 images.
auto_scale_lr = dict(enable=False, base_batch_size=16)
