# UperNet with Swin-ACmix-S on ADE20K, 160,000 iterations (ACmix, section 5.2), 8 GPUs x 2 images.
# The paper (table 2) reports 48.7 mIoU, where Swin-S has 47.6.
_base_ = './upernet_swin_acmix_t_160k_ade20k.py'

model = dict(
    backbone=dict(arch='s', init_cfg=dict(checkpoint='checkpoints/swin_acmix_s_in1k.pth')),
)
