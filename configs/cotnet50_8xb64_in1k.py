# CoTNet-50 on ImageNet-1k, default training (CoTNet, section 4.1), 8 GPUs x 64 images.
# The paper reports: 79.2 % top-1, and 79.8 % with the moving average (table 3).
# Parameters and multiply-adds: 22.22M and 3.24G here, 22.2M and 3.3G in the paper.
_base_ = './_base_/cotnet_100e_in1k.py'
