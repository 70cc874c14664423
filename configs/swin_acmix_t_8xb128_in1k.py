# Swin-ACmix-T on ImageNet-1k at 224 x 224 with Swin's recipe, 8 GPUs x 128 images.
# The paper reports: 81.9 % top-1 (figure 4d; table 6).
# Parameters and multiply-adds: 28.65M and 4.65G here and in the authors' network, 30M and 4.6G in
# the paper.
_base_ = './_base_/swin_acmix_300e_in1k.py'
