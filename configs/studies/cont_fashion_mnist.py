# ConT-S, narrowed; on maps of 16, 8, 4 and 2 pixels the usual patches would be padding.
_base_ = './fashion_mnist.py'

model = dict(
    backbone=dict(
        type='ConTNet',
        arch=dict(
            embed_dims=(44, 88, 176, 352),
            num_heads=(1, 2, 4, 8),
            feedforward_channels=(176, 352, 704, 704),
            depths=(1, 1, 1, 1),
            drop_rates=(0.0, 0.0, 0.0, 0.0),
            out_drop_rate=0.0,
        ),
        patch_sizes=((8, 16), (8, 8), (4, 4), (2, 2)),
    ),
    head=dict(in_channels=704),
)
