# ConT-S on ImageNet-1k with the paper's SGD recipe (ConTNet, section 4.1), 8 GPUs x 64 images.
# The paper reports 74.9 % top-1 (table 2).
_base_ = './cont_m_8xb64_in1k.py'
model = dict(backbone=dict(arch='s'))
