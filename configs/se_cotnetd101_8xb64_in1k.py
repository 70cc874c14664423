# SE-CoTNetD-101 on ImageNet-1k, default training (CoTNet, section 4.1), 8 GPUs x 64 images.
# The paper reports 80.5 % top-1, and 81.4 % with EMA (table 3).
_base_ = './_base_/cotnet_100e_in1k.py'

model = dict(backbone=dict(arch='se-d101'))
