# SE-CoTNetD-50 on ImageNet-1k, default training (CoTNet, section 4.1), 8 GPUs x 64 images.
# The paper reports: 79.8 % top-1, and 80.5 % with the moving average (table 3).
# Parameters and multiply-adds: 23.11M and 4.05G here, 23.1M and 4.1G in the paper.
_base_ = './_base_/cotnet_100e_in1k.py'

model = dict(backbone=dict(arch='se-d50'))
