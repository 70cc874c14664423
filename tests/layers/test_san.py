"""SAN's patchwise attention with the convolution path, against its formula pixel by pixel."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcontnet.layers import PatchwiseACmix, SANBlock

from ..families import randomise_norms


def linear(conv: torch.nn.Module) -> tuple[Tensor, Tensor | None]:
    return conv.weight[:, :, 0, 0], conv.bias


def normalise(parts: list[torch.nn.BatchNorm2d], x: Tensor) -> Tensor:
    weight, bias, mean, variance = (
        torch.cat([getattr(norm, name) for norm in parts])
        for name in ('weight', 'bias', 'running_mean', 'running_var')
    )
    return (weight * (x - mean) / (variance + 1e-5).sqrt() + bias).relu()


def attend(layer: PatchwiseACmix, x: Tensor) -> Tensor:
    """Equation 4 of SAN's paper with the relation of its equation 7, for one image, (C, H, W)."""
    weight, bias = linear(layer.qkv)
    q, k, v = (torch.einsum('oc,chw->ohw', weight, x) + bias[:, None, None]).split(layer.widths)
    margin = layer.kernel_size // 2
    rows, cols = (np.pad(np.arange(n), margin, mode='reflect') for n in x.shape[1:])
    # One BatchNorm, ReLU and linear map over the query and all keys.
    first = [layer.query[0], layer.keys[0]]
    reduce = torch.cat([linear(layer.query[2])[0], linear(layer.keys[2])[0]], dim=1)
    expand, shift = linear(layer.weight[2])
    out = torch.zeros_like(v)
    for y, x_ in np.ndindex(*x.shape[1:]):
        window = list(
            itertools.product(rows[y : y + layer.kernel_size], cols[x_ : x_ + layer.kernel_size])
        )
        relation = torch.cat([q[:, y, x_], *(k[:, i, j] for i, j in window)])
        hidden = normalise([layer.weight[0]], reduce @ normalise(first, relation))
        weights = (expand @ hidden + shift).view(-1, len(window))
        for c in range(len(v)):
            for tap, (i, j) in enumerate(window):
                out[c, y, x_] += weights[c % len(weights), tap] * v[c, i, j]
    return out


@pytest.mark.parametrize(
    ('size', 'kernel_size'), [((5, 4), 3), ((4, 9), 7), ((1, 1), 3), ((1, 1), 7), ((2, 3), 7)]
)
@torch.no_grad()
def test_attention_equals_its_formula_on_maps_down_to_one_pixel(
    size: tuple[int, int], kernel_size: int
) -> None:
    layer = PatchwiseACmix(64, kernel_size=kernel_size).double().eval()
    randomise_norms(layer)
    x = torch.randn(2, 64, *size, dtype=torch.float64)
    layer.sum.rate_attention.fill_(0.7)
    layer.sum.rate_convolution.fill_(0)
    expected = torch.stack([attend(layer, image) for image in x])
    torch.testing.assert_close(layer(x), 0.7 * expected)


@torch.no_grad()
def test_the_convolution_path_has_queries_and_keys_once_and_values_as_four_groups() -> None:
    layer = PatchwiseACmix(64, kernel_size=3).eval()
    layer.sum.rate_attention.fill_(0)
    layer.sum.rate_convolution.fill_(0.3)
    x = torch.randn(2, 64, 5, 4)
    q, k, v = layer.qkv(x).split((4, 4, 16), dim=1)
    groups = torch.stack([q, k, *v.chunk(4, dim=1)], dim=1)
    mixed = torch.einsum('tg,bgchw->bcthw', layer.convolution.mix.weight, groups).flatten(1, 2)
    torch.testing.assert_close(layer(x), 0.3 * layer.convolution.shift(mixed))


def test_a_block_is_a_bottleneck_with_a_shortcut() -> None:
    block = SANBlock(32, kernel_size=3).eval()
    x = torch.randn(1, 32, 4, 4)
    with torch.no_grad():
        block.norm1.weight.fill_(-1.0)
        hidden = block.acmix((-x / (1 + 1e-5) ** 0.5).relu())
        expected = x + block.conv((hidden / (1 + 1e-5) ** 0.5).relu())
        torch.testing.assert_close(block(x), expected)


def test_channels_that_do_not_divide_are_named() -> None:
    with pytest.raises(ValueError, match='multiple of 32, got 48'):
        PatchwiseACmix(48)
