# SE-CoTNetD-152 on ImageNet-1k, default training (CoTNet, section 4.1), 8 GPUs x 64 images.
# The paper has it with the advanced training alone.
_base_ = './_base_/cotnet_100e_in1k.py'

model = dict(backbone=dict(arch='se-d152'))
