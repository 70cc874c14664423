# CoTNeXt-50 on ImageNet-1k, default training (CoTNet, section 4.1), 8 GPUs x 64 images.
# The paper reports: 79.5 % top-1, and 80.2 % with the moving average (table 3).
# Parameters and multiply-adds: 30.05M and 4.25G here, 30.1M and 4.3G in the paper.
_base_ = './_base_/cotnet_100e_in1k.py'

model = dict(backbone=dict(arch='next50'))
