# ConT-Ti on ImageNet-1k with mixup, auto-augmentation and AdamW (ConTNet, section 4.1), 8 GPUs x 64
# images.
# The paper reports 74.9 % top-1 (table 4).
_base_ = './_base_/cont_strong_aug_200e_in1k.py'
model = dict(backbone=dict(arch='ti'), head=dict(in_channels=768))
