# Swin-T, narrowed, with windows of 4 x 4 pixels.
_base_ = './fashion_mnist.py'

model = dict(
    backbone=dict(
        type='SwinTransformer',
        arch=dict(embed_dims=39, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24]),
        img_size=64,
        window_size=4,
        pad_small_map=True,
        drop_path_rate=0.0,
    ),
    head=dict(in_channels=312),
)
