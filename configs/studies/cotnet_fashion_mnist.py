# CoTNet-50, narrowed.
_base_ = './fashion_mnist.py'

model = dict(
    backbone=dict(
        type='CoTNet',
        arch=dict(
            out_channels=(128, 256, 512, 1024),
            mid_channels=(32, 64, 128, 256),
            layers=('cot', 'cot', 'cot', 'cot'),
            groups=1,
            key_groups=4,
            stem_channels=32,
            deep=False,
            blur=False,
            depths=(3, 4, 6, 3),
        ),
    ),
    head=dict(in_channels=1024),
)
