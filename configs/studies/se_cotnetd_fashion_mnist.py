# SE-CoTNetD-50, narrowed.
_base_ = './fashion_mnist.py'

model = dict(
    backbone=dict(
        type='CoTNet',
        arch=dict(
            out_channels=(112, 224, 448, 896),
            mid_channels=(28, 56, 112, 224),
            layers=('split', 'split', 'alternate', 'cot'),
            groups=1,
            key_groups=4,
            stem_channels=44,
            deep=True,
            blur=False,
            depths=(3, 4, 6, 3),
        ),
    ),
    head=dict(in_channels=896),
)
