# ConT-S on ImageNet-1k with mixup, auto-augmentation and AdamW (ConTNet, section 4.1), 8 GPUs x 64
# images.
# The paper reports 76.5 % top-1 (table 3).
_base_ = './_base_/cont_strong_aug_200e_in1k.py'
model = dict(backbone=dict(arch='s'))
