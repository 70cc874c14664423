# SE-CoTNetD-101 on ImageNet-1k, default training (CoTNet, section 4.1), 8 GPUs x 64 images.
# The paper reports: 80.5 % top-1, and 81.4 % with the moving average (table 3).
# Parameters and multiply-adds: 40.91M and 8.44G here, 40.9M and 8.5G in the paper.
_base_ = './_base_/cotnet_100e_in1k.py'

model = dict(backbone=dict(arch='se-d101'))
