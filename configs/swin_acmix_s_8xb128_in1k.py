# Swin-ACmix-S on ImageNet-1k at 224 x 224 with Swin's recipe, 8 GPUs x 128 images.
# The paper reports 83.5 % top-1 (figure 4d).
_base_ = './_base_/swin_acmix_300e_in1k.py'

model = dict(backbone=dict(arch='s', drop_path_rate=0.3))
