# ResNet-50, narrowed.
_base_ = './fashion_mnist.py'

model = dict(
    backbone=dict(type='ResNet', depth=50, stem_channels=29, base_channels=29),
    head=dict(in_channels=928),
)
