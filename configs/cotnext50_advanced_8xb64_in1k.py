# CoTNeXt-50 on ImageNet-1k, advanced training (CoTNet, section 4.1), 8 GPUs x 64 images.
# The paper reports 82.1 % top-1 (table 4).
_base_ = './_base_/cotnet_advanced_350e_in1k.py'

model = dict(backbone=dict(arch='next50'))
