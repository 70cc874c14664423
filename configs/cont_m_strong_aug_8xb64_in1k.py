# ConT-M on ImageNet-1k with mixup, auto-augmentation and AdamW (ConTNet, section 4.1), 8 GPUs x 64
# images.
# The paper reports 80.2 % top-1 (tables 3 and 4).
_base_ = './_base_/cont_strong_aug_200e_in1k.py'
