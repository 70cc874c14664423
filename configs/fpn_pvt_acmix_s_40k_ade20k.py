# Semantic FPN with PVT-ACmix-S on ADE20K, 40,000 iterations (ACmix, section 5.2), 8 GPUs x 2
# images.
# The paper (table 2) reports 46.4 mIoU, where PVT-S has 42.4.
_base_ = './fpn_pvt_acmix_t_40k_ade20k.py'

model = dict(
    backbone=dict(arch='s', init_cfg=dict(checkpoint='checkpoints/pvt_acmix_s_in1k.pth')),
)
