"""ACmix's convolution path against the paper's plain forms (figure 3), and how paths add up."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcontnet.analysis.complexity import count
from mmcontnet.layers import COMBINATIONS, ConvolutionPath, PathSum, SlidingACmix

HEADS, WIDTH = 3, 4  # channels of a head


def mixed_maps(path: ConvolutionPath, x: Tensor) -> Tensor:
    """Map the groups, whose channels are mixed alike, to 9 maps: (B, 9, WIDTH, H, W)."""
    groups = x.unflatten(1, (-1, WIDTH))
    maps = torch.einsum('tg,bgdhw->btdhw', path.mix.weight, groups)
    return maps if path.mix.bias is None else maps + path.mix.bias[:, None, None, None]


def shift(x: Tensor, dy: int, dx: int) -> Tensor:
    """Let every pixel be its neighbour dy below and dx to the right (equation 4)."""
    h, w = x.shape[-2:]
    return F.pad(x, [1] * 4)[..., 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w]


def by_tensor_shifts(path: ConvolutionPath, x: Tensor) -> Tensor:
    """Figure 3a: equations 7 and 8."""
    maps = mixed_maps(path, x)
    total = sum(shift(maps[:, tap], tap // 3 - 1, tap % 3 - 1) for tap in range(9))
    # The same for all heads, channel by channel.
    return total.repeat_interleave(HEADS, dim=1)


def by_group_convolution(path: ConvolutionPath, x: Tensor) -> Tensor:
    """Figure 3c with learnt kernels: the 9 maps of a channel make its outputs for all heads."""
    maps = mixed_maps(path, x).transpose(1, 2).flatten(1, 2)
    conv = path.shift
    return F.conv2d(maps, conv.weight, stride=conv.stride, padding=1, groups=WIDTH)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('reference', [by_tensor_shifts, by_group_convolution])
def test_convolution_path_starts_as_shifts(reference: Any, bias: bool) -> None:
    path = ConvolutionPath(3 * HEADS, WIDTH, HEADS, bias=bias).double()
    x = torch.randn(2, 3 * HEADS * WIDTH, 5, 7, dtype=torch.double)
    torch.testing.assert_close(path(x), reference(path, x))


# 3 heads are computed as one convolution, if there is no bias; 12 are not.
@pytest.mark.parametrize(('heads', 'bias'), [(3, False), (3, True), (12, False), (1, False)])
@pytest.mark.parametrize('stride', [1, 2])
def test_learnt_convolution_path_equals_a_mix_and_a_convolution(
    heads: int, bias: bool, stride: int
) -> None:
    path = ConvolutionPath(3 * heads, WIDTH, heads, stride=stride, bias=bias).double()
    nn.init.normal_(path.shift.weight)
    x = torch.randn(2, 3 * heads * WIDTH, 5, 8, dtype=torch.double, requires_grad=True)
    inputs = [x, *path.parameters()]
    out, expected = path(x), by_group_convolution(path, x)
    assert out.shape == (2, WIDTH * heads, -(-5 // stride), 8 // stride)
    torch.testing.assert_close(out, expected)
    grads = torch.autograd.grad(out.sin().sum(), inputs)
    torch.testing.assert_close(grads, torch.autograd.grad(expected.sin().sum(), inputs))


SHIFTS: dict[str, Any] = {
    'bias': dict(bias=True),
    'dilation': dict(dilation=2, padding=2),
    'reflection': dict(padding_mode='reflect'),
    'same': dict(padding='same'),
    'no padding': dict(padding=0),
    'kernel': dict(kernel_size=5, padding=2),
    'groups': dict(groups=1),
}


@pytest.mark.parametrize('change', SHIFTS)
def test_another_convolution_in_the_place_of_the_shift_is_computed_as_it_is(change: str) -> None:
    path = ConvolutionPath(3 * HEADS, WIDTH, HEADS)
    options = dict(kernel_size=3, padding=1, groups=WIDTH, bias=False) | SHIFTS[change]
    path.shift = nn.Conv2d(9 * WIDTH, HEADS * WIDTH, **options)
    x = torch.randn(2, 3 * HEADS * WIDTH, 6, 7)
    maps = mixed_maps(path, x).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(path(x), path.shift(maps), rtol=1e-4, atol=1e-5)


def test_counted_are_the_mix_and_the_convolution_however_they_are_computed() -> None:
    path = ConvolutionPath(3 * HEADS, WIDTH, HEADS)
    total = count(path, torch.empty(1, 3 * HEADS * WIDTH, 10, 10)).total
    assert total.multiply_adds == 100 * WIDTH * (9 * 3 * HEADS + 81 * HEADS)


@pytest.mark.parametrize(
    ('combine', 'names', 'rates'),
    [
        ('rates', ['rate_attention', 'rate_convolution'], (0.2, 0.7)),
        ('complement', ['rate_attention'], (0.2, 0.8)),
        ('attention_rate', ['rate_attention'], (0.2, 1)),
        ('sum', [], (1, 1)),
    ],
)
def test_paths_add_up_in_the_ways_of_table_6(
    combine: str, names: list[str], rates: tuple[float, float]
) -> None:
    assert combine in COMBINATIONS
    path_sum = PathSum(combine)
    parameters = dict(path_sum.named_parameters())
    assert list(parameters) == names
    assert all(float(parameter.detach()) == 0.5 for parameter in parameters.values())
    for parameter, value in zip(parameters.values(), (0.2, 0.7), strict=False):
        nn.init.constant_(parameter, value)
    attention, convolution = torch.randn(2, 1, 3, 4, 5).unbind()
    expected = rates[0] * attention + rates[1] * convolution
    torch.testing.assert_close(path_sum(attention, convolution), expected)


def test_the_sum_keeps_the_precision_of_the_paths_and_rates_have_gradients_of_their_own() -> None:
    # Under autocast paths are bf16 and rates fp32. All gradients of 1 add up to more than fp16
    # holds, which would make the loss scale fall for these two numbers alone.
    path_sum = PathSum()
    attention, convolution = torch.ones(2, 1, 16, 100, 100, dtype=torch.half).unbind()
    out = path_sum(attention, convolution)
    assert out.dtype == torch.half
    out.backward(torch.ones_like(out))
    for rate in path_sum.parameters():
        assert rate.grad is not None and float(rate.grad) == 160_000


def test_a_term_that_all_keys_share_changes_nothing() -> None:
    # Which is why the authors' position of the query may be left out.
    layer = SlidingACmix(8, num_heads=2, kernel_size=3)
    x = torch.randn(1, 8, 5, 6)
    expected = layer(x)
    nn.init.constant_(layer.position.bias, 3.0)
    torch.testing.assert_close(layer(x), expected)
    nn.init.normal_(layer.position.weight)
    assert not torch.allclose(layer(x), expected, atol=1e-3)


@pytest.mark.parametrize('heads', [4, 0, -5])
def test_heads_that_do_not_divide_the_channels_are_named(heads: int) -> None:
    with pytest.raises(ValueError, match=f'divide the 10 channels, got {heads}'):
        SlidingACmix(10, num_heads=heads)
