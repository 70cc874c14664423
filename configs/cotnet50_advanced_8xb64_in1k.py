# CoTNet-50 on ImageNet-1k, advanced training (CoTNet, section 4.1), 8 GPUs x 64 images.
# The paper reports: 81.3 % top-1 (table 4).
# Parameters and multiply-adds: 22.22M and 3.24G here, 22.2M and 3.3G in the paper.
_base_ = './_base_/cotnet_advanced_350e_in1k.py'
