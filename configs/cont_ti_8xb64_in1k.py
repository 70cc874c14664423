# ConT-Ti on ImageNet-1k with the paper's SGD recipe (ConTNet, section 4.1), 8 GPUs x 64 images.
# The paper reports: Table 2 has no row for it; 74.9 with strong augmentation (table 4).
# Parameters: 5.89M here and in the authors' network, 5.8M in the paper.
_base_ = [
    './_base_/cont_classifier.py',
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    './_base_/cont_sgd_200e_in1k.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(backbone=dict(arch='ti'), head=dict(in_channels=768))
