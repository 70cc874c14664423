# ResNet-ACmix-50, narrowed.
_base_ = './fashion_mnist.py'

model = dict(
    backbone=dict(
        type='ResNetACmix',
        arch=dict(
            out_channels=(112, 224, 448, 896), mid_channels=(28, 56, 112, 224), depths=(3, 4, 6, 3)
        ),
    ),
    head=dict(in_channels=896),
)
