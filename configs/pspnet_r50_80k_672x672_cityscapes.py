# PSPNet with ResNet-50 on Cityscapes in crops of 672 x 672: what the ConTNet paper compares with.
# The paper (table 7) reports 77.12 mIoU, and 77.30 for PSPNet's own code with crops of 713 x 713.
#
# mmseg's ResNet-50 v1c and its SGD schedule; 80,000 x 8 images are 215 epochs, PSPNet's code has
# 200. Crops are no 8 n + 1 pixels wide as 713 is, so corners are not aligned.
_base_ = [
    './_base_/pspnet_r50_d8.py',
    './_base_/cityscapes_672x672.py',
    './_base_/seg_sgd_80k.py',
    './_base_/seg_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(672, 672)),
    # Windows of a crop's size at two thirds of it, as PSPNet tests.
    test_cfg=dict(mode='slide', crop_size=(672, 672), stride=(448, 448)),
)

# 4 GPUs x 2 images.
auto_scale_lr = dict(enable=False, base_batch_size=8)
