# Swin-ACmix-T, narrowed, with windows of 4 x 4 pixels.
_base_ = './fashion_mnist.py'

model = dict(
    backbone=dict(
        type='SwinACmix',
        arch=dict(embed_dims=(36, 72, 144, 288), num_heads=(3, 6, 12, 24), depths=(2, 2, 6, 2)),
        window_size=4,
    ),
    head=dict(in_channels=288),
)
