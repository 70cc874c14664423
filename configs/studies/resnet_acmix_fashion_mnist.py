# ResNet-ACmix-50, narrowed; bottlenecks start as their shortcuts, as in the ResNet beside it.
_base_ = './fashion_mnist.py'

model = dict(
    backbone=dict(
        type='ResNetACmix',
        zero_init_residual=True,
        arch=dict(
            out_channels=(112, 224, 448, 896), mid_channels=(28, 56, 112, 224), depths=(3, 4, 6, 3)
        ),
    ),
    head=dict(in_channels=896),
)
