# CMT with fewer blocks than CMT-Ti.
_base_ = './fashion_mnist.py'

model = dict(
    backbone=dict(
        type='CMT',
        arch=dict(
            stem_channels=16,
            embed_dims=(48, 96, 192, 384),
            depths=(2, 2, 4, 2),
            ffn_ratio=3.6,
            img_size=64,
        ),
    ),
    head=dict(in_channels=384),
)
