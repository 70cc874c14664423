"""What is ACmix's own in its ResNet host; test_contract.py has what all backbones promise."""

import pytest
import torch

from mmcontnet.backbones import ResNetACmix

from .. import families


def test_shift_convolutions_start_from_shifts_and_others_from_noise() -> None:
    backbone = ResNetACmix(families.RESNET_ACMIX)
    backbone.init_weights()
    shifts = {n: p for n, p in backbone.named_parameters() if n.endswith('shift.weight')}
    assert len(shifts) == 5
    for weight in shifts.values():
        assert weight.eq(torch.eye(9).view(9, 3, 3)).all()
    # He's, by fan-out; PyTorch's own would be sqrt(2) times narrower.
    layer = backbone.stages[3][0].layer[0].qkv
    assert float(layer.weight.detach().std()) == pytest.approx((2 / 72) ** 0.5, rel=0.1)
    assert not layer.bias.any()


def test_window_heads_and_combination_are_those_asked_for() -> None:
    backbone = ResNetACmix(families.RESNET_ACMIX, kernel_att=3, num_heads=2, combine='sum').eval()
    assert not [n for n, _ in backbone.named_parameters() if 'rate_' in n]
    layer = backbone.stages[0][0].layer[0]
    assert layer.convolution.mix.in_features == 6
    # Both paths of a pixel see its neighbours, and no more.
    x = torch.randn(1, 8, 9, 9)
    changed = x.clone()
    changed[..., 4, 4] += 1
    differs = (layer(x) != layer(changed)).any(1)[0]
    assert differs[3:6, 3:6].all() and differs.sum() == 9
