# ResNet-D-50, narrowed: the host of SE-CoTNetD.
_base_ = './fashion_mnist.py'

model = dict(
    backbone=dict(type='ResNetV1d', depth=50, stem_channels=28, base_channels=28),
    head=dict(in_channels=896),
)
