# CoTNeXt-101 on ImageNet-1k, advanced training (CoTNet, section 4.1), 8 GPUs x 64 images.
# The paper reports: 83.2 % top-1 (table 4).
# Parameters and multiply-adds: 53.35M and 8.07G here, 53.4M and 8.2G in the paper.
_base_ = './_base_/cotnet_advanced_350e_in1k.py'

model = dict(backbone=dict(arch='next101'))
optim_wrapper = dict(optimizer=dict(weight_decay=6e-5))
