# ConT-Ti on ImageNet-1k with the paper's SGD recipe (ConTNet, section 4.1), 8 GPUs x 64 images.
# Table 2 has no row for it; with strong augmentation the paper reports 74.9 % top-1 (table 4). The
# feed-forward widths are those of the authors' network, which differ from the paper's a little.
_base_ = './cont_m_8xb64_in1k.py'
model = dict(backbone=dict(arch='ti'), head=dict(in_channels=768))
