# SAN-ACmix-10, narrowed.
_base_ = './fashion_mnist.py'

model = dict(
    backbone=dict(
        type='SANACmix',
        arch=dict(
            stem_channels=64, channels=(160, 320, 640, 1280), stem_depth=2, depths=(1, 2, 4, 1)
        ),
    ),
    head=dict(in_channels=1280),
)
