# PVT-ACmix-T, narrowed.
_base_ = './fashion_mnist.py'

model = dict(
    backbone=dict(
        type='PVTACmix',
        arch=dict(
            embed_dims=(42, 84, 210, 336), num_heads=(1, 2, 5, 8), img_size=64, depths=(2, 2, 2, 2)
        ),
    ),
    head=dict(in_channels=336),
)
