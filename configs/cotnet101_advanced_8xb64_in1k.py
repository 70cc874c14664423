# CoTNet-101 on ImageNet-1k, advanced training (CoTNet, section 4.1), 8 GPUs x 64 images.
# The paper reports: 82.8 % top-1 (table 4).
# Parameters and multiply-adds: 38.27M and 6.05G here, 38.3M and 6.1G in the paper.
_base_ = './_base_/cotnet_advanced_350e_in1k.py'

model = dict(backbone=dict(arch='101'))
optim_wrapper = dict(optimizer=dict(weight_decay=6e-5))
