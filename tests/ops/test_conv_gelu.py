"""GELU within a convolution, against the two one after the other."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from mmcontnet.ops import conv_gelu, fuses_gelu


def make_inputs(kernel: tuple[int, ...], groups: int, size: tuple[int, int]) -> list[Tensor]:
    channels = kernel[1] * groups
    x = torch.randn(2, channels, *size).contiguous(memory_format=torch.channels_last)
    return [x, torch.randn(kernel), torch.randn(kernel[0])]


@pytest.mark.parametrize('grad', [True, False])
@pytest.mark.parametrize('biased', [True, False])
@pytest.mark.parametrize('size', [(5, 6), (1, 4), (1, 1), (32, 31)])
@pytest.mark.parametrize(
    ('kernel', 'options'),
    [
        ((7, 4, 1, 1), {}),
        ((6, 1, 3, 3), dict(padding=(1, 1), groups=6)),
        ((8, 3, 3, 3), dict(padding=(1, 2), stride=(2, 1), dilation=(1, 2))),
    ],
    ids=['pointwise', 'depthwise', 'strided'],
)
def test_it_is_gelu_of_the_convolution(
    kernel: tuple[int, ...],
    options: dict[str, int],
    size: tuple[int, int],
    biased: bool,
    grad: bool,
) -> None:
    x, weight, bias = make_inputs(kernel, options.get('groups', 1), size)
    expected = F.gelu(F.conv2d(x, weight, bias if biased else None, **options))
    with torch.set_grad_enabled(grad):
        actual = conv_gelu(x, weight, bias if biased else None, **options)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert actual.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@pytest.mark.filterwarnings('ignore:Profiler clears events')
def test_inference_fuses() -> None:
    x, weight, bias = make_inputs((7, 4, 1, 1), 1, (5, 6))
    assert fuses_gelu(x, weight)
    with torch.profiler.profile() as profile:
        conv_gelu(x, weight, bias)
    ops = {event.key for event in profile.key_averages()}
    assert 'mkldnn::_convolution_pointwise' in ops
    assert 'aten::gelu' not in ops


@torch.no_grad()
@pytest.mark.filterwarnings('ignore:TF32 acceleration')
@pytest.mark.parametrize(
    'setting',
    [
        torch.enable_grad,
        lambda: torch.autocast('cpu', torch.bfloat16),
        lambda: torch.backends.mkldnn.flags(enabled=False),
        lambda: FlopCounterMode(display=False),
        forward_ad.dual_level,
    ],
    ids=['gradients', 'autocast', 'without oneDNN', 'counting', 'dual numbers'],
)
def test_the_two_steps_are_taken(setting: Callable[[], AbstractContextManager]) -> None:
    x, weight, _ = make_inputs((7, 4, 1, 1), 1, (5, 6))
    with setting() as counter:
        assert not fuses_gelu(x, weight)
        actual, expected = conv_gelu(x, weight, None), F.gelu(F.conv2d(x, weight))
    torch.testing.assert_close(actual, expected)
    if counter is not None and hasattr(counter, 'get_total_flops'):
        assert counter.get_total_flops() == 2 * 2 * (2 * 5 * 6 * 7 * 4)


@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_other_precisions_and_no_images_at_all(dtype: torch.dtype) -> None:
    x, weight, _ = make_inputs((7, 4, 1, 1), 1, (5, 6))
    for few in (x.to(dtype), x.to(dtype)[:0]):
        expected = F.gelu(F.conv2d(few, weight.to(dtype)))
        torch.testing.assert_close(conv_gelu(few, weight.to(dtype), None), expected)
    assert conv_gelu(x[:0], weight, None).shape == (0, 7, 5, 6)
