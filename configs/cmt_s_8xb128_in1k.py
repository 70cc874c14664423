# CMT-S on ImageNet-1k at 224 x 224 with the paper's recipe (CMT, section 4.1), 8 GPUs x 128 images.
# The paper reports: 83.5 % top-1 (table 2).
# Parameters and multiply-adds: 26.26M and 4.03G here and in the authors' network, 25.14M and 4.04G
# in the paper (table 1), whose detectors' totals have 26.26M too.
_base_ = './_base_/cmt_deit_300e_in1k.py'
