# PSPNet with CMT-S on Cityscapes in crops of 672 x 672, for comparison with pspnet_cont_m and
# pspnet_r50: the same data, batch, iterations and windows in testing. The CMT paper has no
# segmentation; the optimizer is that of UperNet with Swin and Twins in mmseg.
#
# CMT has no dilated form, so the heads see strides 32 and 16 where they see 8 of the others: much
# cheaper, and coarser than PSPNet is meant to be. upernet_cmt_s is the better use of CMT.
_base_ = [
    './_base_/pspnet_r50_d8.py',
    './_base_/cmt_s_dense.py',
    './_base_/cityscapes_672x672.py',
    './_base_/seg_adamw.py',
    './_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(672, 672)),
    backbone=dict(_delete_=True, **_base_.cmt_s, out_indices=(2, 3)),
    decode_head=dict(in_channels=512, in_index=1),
    auxiliary_head=dict(in_channels=256, in_index=0),
    # Windows of a crop's size at two thirds of it, as PSPNet tests.
    test_cfg=dict(mode='slide', crop_size=(672, 672), stride=(448, 448)),
)

# Two images are too few for the backbone's BatchNorm: like the heads', it counts those of all GPUs.
sync_bn = 'torch'

train_cfg = dict(type='IterBasedTrainLoop', max_iters=80000, val_interval=8000)

# 4 GPUs x 2 images.
auto_scale_lr = dict(enable=False, base_batch_size=8)
