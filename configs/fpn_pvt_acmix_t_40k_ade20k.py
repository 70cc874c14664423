# Semantic FPN with PVT-ACmix-T on ADE20K, 40,000 iterations (ACmix, section 5.2), 8 GPUs x 2
# images.
# The paper (table 2) reports 42.7 mIoU, where PVT-T has 37.1.
#
# The paper prints no recipe; this is PVT's for Semantic FPN: AdamW, 1e-4 for both the learning rate
# and the weight decay, poly, crops of 512. The drop path rate is ImageNet's.
_base_ = [
    './_base_/semantic_fpn.py',
    './_base_/pvt_acmix_dense.py',
    './_base_/ade20k_512x512.py',
    './_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(**_base_.pvt_acmix_t, out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=4000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=4000))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4))
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, by_epoch=False)]

# 8 GPUs x 2 images.
auto_scale_lr = dict(enable=False, base_batch_size=16)
