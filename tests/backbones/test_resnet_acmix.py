"""What is ACmix's own in its ResNet host; test_contract.py has what all backbones promise."""

import pytest
import torch

from mmcontnet.backbones import ResNetACmix

from .. import families


def test_convolutions_start_from_noise() -> None:
    backbone = ResNetACmix(families.RESNET_ACMIX)
    backbone.init_weights()
    # He's, by fan-out; PyTorch's own would be sqrt(2) times narrower.
    layer = backbone.stages[3][0].layer[0].qkv
    assert float(layer.weight.detach().std()) == pytest.approx((2 / 72) ** 0.5, rel=0.1)
    assert not layer.bias.any()


def test_window_and_heads_are_those_asked_for() -> None:
    backbone = ResNetACmix(families.RESNET_ACMIX, kernel_att=3, num_heads=2).eval()
    layer = backbone.stages[0][0].layer[0]
    assert layer.convolution.mix.in_features == 6
    # Both paths of a pixel see its neighbours, and no more.
    x = torch.randn(1, 8, 9, 9)
    changed = x.clone()
    changed[..., 4, 4] += 1
    differs = (layer(x) != layer(changed)).any(1)[0]
    assert differs[3:6, 3:6].all() and differs.sum() == 9
