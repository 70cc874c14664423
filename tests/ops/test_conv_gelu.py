"""GELU within a convolution or a linear map, against the two one after the other."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from mmcontnet.ops import conv_gelu, force_reference, linear_gelu


def make_inputs(kernel: tuple[int, ...], groups: int, size: tuple[int, int]) -> list[Tensor]:
    channels = kernel[1] * groups
    x = torch.randn(2, channels, *size).contiguous(memory_format=torch.channels_last)
    return [x, torch.randn(kernel), torch.randn(kernel[0])]


def ops_of(function: Callable[[], object]) -> set[str]:
    with torch.profiler.profile() as profile:
        function()
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize('grad', [True, False])
@pytest.mark.parametrize('biased', [True, False])
@pytest.mark.parametrize('size', [(5, 6), (1, 4), (1, 1), (32, 31)])
@pytest.mark.parametrize(
    ('kernel', 'options'),
    [
        ((7, 4, 1, 1), {}),
        ((6, 1, 3, 3), dict(padding=(1, 1), groups=6)),
        ((8, 3, 3, 5), dict(padding=(1, 2), stride=(2, 1))),
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


@pytest.mark.parametrize('shape', [(2, 5, 8), (2, 3, 5, 8), (1, 1, 8), (5, 8)])
@pytest.mark.parametrize('grad', [True, False])
def test_it_is_gelu_of_the_linear_map(shape: tuple[int, ...], grad: bool) -> None:
    for x in (torch.randn(shape), torch.randn(*shape[:-2], shape[-1], shape[-2]).mT):
        weight, bias = torch.randn(6, 8), torch.randn(6)
        with torch.set_grad_enabled(grad):
            actual = linear_gelu(x, weight, bias)
        assert actual.is_contiguous() or not x.is_contiguous()
        torch.testing.assert_close(actual, F.gelu(F.linear(x, weight, bias)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings('ignore:Profiler clears events')
def test_inference_fuses() -> None:
    x, weight, bias = make_inputs((7, 4, 1, 1), 1, (5, 6))
    tokens = x.permute(0, 2, 3, 1)
    for function in (
        lambda: conv_gelu(x, weight, bias),
        lambda: linear_gelu(tokens, weight[:, :, 0, 0], bias),
    ):
        ops = ops_of(function)
        assert 'mmcontnet::conv_gelu' in ops
        assert 'aten::gelu' not in ops


class WeightType(Tensor):
    pass


@torch.no_grad()
@pytest.mark.filterwarnings('ignore:Profiler clears events', 'ignore:TF32 acceleration')
@pytest.mark.parametrize(
    'setting',
    [
        torch.enable_grad,
        lambda: torch.autocast('cpu', torch.bfloat16),
        lambda: torch.backends.mkldnn.flags(enabled=False),
        force_reference,
    ],
    ids=['gradients', 'autocast', 'without oneDNN', 'reference'],
)
def test_the_two_steps_are_taken(setting: Callable[[], AbstractContextManager]) -> None:
    x, weight, _ = make_inputs((7, 4, 1, 1), 1, (5, 6))
    with setting():
        assert 'aten::gelu' in ops_of(lambda: conv_gelu(x, weight))
        torch.testing.assert_close(conv_gelu(x, weight), F.gelu(F.conv2d(x, weight)))


@torch.no_grad()
def test_other_tensors_and_no_images_at_all() -> None:
    x, weight, _ = make_inputs((7, 4, 1, 1), 1, (5, 6))
    for dtype in (torch.float64, torch.bfloat16):
        for few in (x.to(dtype), x.to(dtype)[:0]):
            expected = F.gelu(F.conv2d(few, weight.to(dtype)))
            torch.testing.assert_close(conv_gelu(few, weight.to(dtype)), expected)
    assert conv_gelu(x[:0], weight).shape == (0, 7, 5, 6)
    assert type(conv_gelu(x, weight.as_subclass(WeightType))) is WeightType


@torch.no_grad()
@pytest.mark.filterwarnings('ignore:There is a performance drop')
def test_derivatives_and_batches_of_functions_are_right_without_gradients_too() -> None:
    x, weight, _ = make_inputs((7, 4, 1, 1), 1, (5, 6))

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return F.gelu(F.conv2d(x, weight))

    tangents = (torch.randn_like(x), torch.randn_like(weight))
    for i in range(2):
        args, tangent = [x, weight], tangents[i]
        results = []
        for function in (conv_gelu, plain):
            call = lambda t, f=function, a=args, i=i: f(*a[:i], t, *a[i + 1 :])  # noqa: E731
            with forward_ad.dual_level():
                dual = forward_ad.unpack_dual(call(forward_ad.make_dual(args[i], tangent))).tangent
            jvp = torch.func.jvp(call, (args[i],), (tangent,))[1]
            grad = torch.func.grad(lambda t, call=call: call(t).sum())(args[i])
            batched = torch.vmap(call)(torch.stack([args[i], tangent]))
            results.append((dual, jvp, grad, batched))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_counters_and_fake_tensors_know_the_op() -> None:
    x, weight, bias = make_inputs((8, 3, 3, 3), 2, (5, 6))
    options = ([2, 1], [1, 1], 2)
    with FlopCounterMode(display=False) as counter:
        out = torch.ops.mmcontnet.conv_gelu(x, weight, bias, *options)
    assert counter.get_total_flops() == 2 * out.numel() * 3 * 9
    tests = ('test_schema', 'test_faketensor')
    op = torch.ops.mmcontnet.conv_gelu
    torch.library.opcheck(op, (x, weight, bias, *options), test_utils=tests)
