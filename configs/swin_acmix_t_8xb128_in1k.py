# Swin-ACmix-T on ImageNet-1k at 224 x 224 with Swin's recipe, 8 GPUs x 128 images.
# The paper reports 81.9 % top-1 (figure 4d; table 6).
_base_ = './_base_/swin_acmix_300e_in1k.py'
