"""BatchNorm and convolution by one op, against the two written one after the other."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcontnet.ops import norm_conv

KERNELS = [(7, 4, 1, 1), (4, 1, 3, 3)]
# A border may be all that a map has, or both ends of a side the same.
SIZES = [(5, 6), (1, 4), (3, 1), (2, 2)]

every_kernel = pytest.mark.parametrize('kernel', KERNELS, ids=['pointwise', 'depthwise'])
every_mode = pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])


def reference(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    normed = F.batch_norm(
        x, running_mean, running_var, norm_weight, norm_bias, training, momentum, eps
    )
    padding, groups = (1, len(weight)) if weight.shape[2] > 1 else (0, 1)
    return F.conv2d(normed, weight, bias, padding=padding, groups=groups)


def make_inputs(
    kernel: tuple[int, ...], size: tuple[int, int] = (5, 6), dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """All tensors in order; the third and the fourth are the running statistics."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, *size), (4,), (4,), (4,), (4,), kernel, (kernel[0],)]
    inputs = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    inputs[4] = inputs[4].abs() + 0.1
    return [x.requires_grad_(i not in (3, 4)) for i, x in enumerate(inputs)]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('size', SIZES)
@every_mode
@every_kernel
def test_values_gradients_and_running_statistics_equal_the_two_steps(
    kernel: tuple[int, ...], training: bool, size: tuple[int, int], dtype: torch.dtype
) -> None:
    settings = dict(training=training, momentum=0.3, eps=1e-3)
    results = []
    for function, precision in ((norm_conv, dtype), (reference, torch.float64)):
        inputs = [
            x.detach().to(precision).requires_grad_(x.requires_grad)
            for x in make_inputs(kernel, size, dtype)
        ]
        out = function(*inputs, **settings)
        seed = torch.linspace(-1, 1, out.numel(), dtype=precision).view_as(out)
        grads = torch.autograd.grad(out, [x for x in inputs if x.requires_grad], seed)
        results.append((out, *inputs[3:5], *grads))
    tolerance = 1e-5 if dtype is torch.float32 else 1e-10
    for actual, expected in zip(*results, strict=True):
        # By the largest: single gradients are differences of larger numbers.
        atol = tolerance * max(1, float(expected.detach().abs().max()))
        torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=atol)


@every_mode
@every_kernel
def test_gradients_equal_finite_differences(kernel: tuple[int, ...], training: bool) -> None:
    inputs = make_inputs(kernel, (3, 4))

    def function(*tensors: Tensor) -> Tensor:
        # Running statistics that every call would move are copies.
        copies = [t if i not in (3, 4) else t.clone() for i, t in enumerate(tensors)]
        return norm_conv(*copies, training=training)

    assert torch.autograd.gradcheck(function, inputs)


@every_mode
@every_kernel
def test_one_map_is_kept_for_backward(kernel: tuple[int, ...], training: bool) -> None:
    inputs = make_inputs(kernel)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = norm_conv(*inputs, training=training)
    assert sum(n == inputs[0].numel() for n in kept.values()) == 1
    out.sum().backward()


@pytest.mark.parametrize('grad', [True, False])
@every_kernel
def test_gelu_may_follow(kernel: tuple[int, ...], grad: bool) -> None:
    inputs = make_inputs(kernel, dtype=torch.float32)
    settings = dict(training=False, momentum=0.1, eps=1e-5)
    expected = F.gelu(reference(*inputs, **settings))
    with torch.set_grad_enabled(grad):
        actual = norm_conv(*inputs, **settings, gelu=True)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def values_and_gradients(function: Any, inputs: list[Tensor], device: str) -> list[Tensor]:
    """In half precision where the input is; else in its own."""
    half = inputs[0].dtype.itemsize == 2
    with torch.autocast(device, inputs[0].dtype if half else torch.bfloat16, enabled=half):
        out = function(*inputs, training=True, momentum=0.3, eps=1e-3)
    seed = torch.linspace(-1, 1, out.numel(), device=device).view_as(out).sin().to(out.dtype)
    grads = torch.autograd.grad(out, [x for x in inputs if x.requires_grad], seed)
    assert [g.dtype for g in grads] == [x.dtype for x in inputs if x.requires_grad]
    return [x.detach().double() for x in (out, *inputs[3:5], *grads)]


def check_half_precision(kernel: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    channels, groups = (24, 24) if kernel[2] > 1 else (24, 1)
    weight = (24 if groups > 1 else 8, channels // groups, *kernel[2:])
    shapes = [(4, 24, 12, 13), (24,), (24,), (24,), (24,), weight, weight[:1]]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    inputs[4] = inputs[4].abs() + 0.1
    # As GELU gives it: its mean is not 0.
    inputs[0] = F.gelu(2 * inputs[0]).to(dtype).contiguous(memory_format=torch.channels_last)

    def copies(wide: torch.dtype, x_dtype: torch.dtype) -> list[Tensor]:
        made = [x.to(x_dtype if i == 0 else wide).clone() for i, x in enumerate(inputs)]
        return [x.requires_grad_(i not in (3, 4)) for i, x in enumerate(made)]

    exact = values_and_gradients(reference, copies(torch.float64, torch.float64), device)
    plain = values_and_gradients(reference, copies(torch.float32, dtype), device)
    actual = values_and_gradients(norm_conv, copies(torch.float32, dtype), device)
    eps = torch.finfo(dtype).eps
    for a, p, e in zip(actual, plain, exact, strict=True):
        size = e.abs().max()
        error, allowed = ((x - e).abs().max() / size for x in (a, p))
        assert error < max(2 * allowed, 2 * eps), (error, allowed)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@every_kernel
def test_under_autocast_it_errs_as_the_two_steps_do(
    kernel: tuple[int, ...], dtype: torch.dtype
) -> None:
    check_half_precision(kernel, dtype, 'cpu')


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@every_kernel
def test_on_a_gpu_too(kernel: tuple[int, ...], dtype: torch.dtype) -> None:
    check_half_precision(kernel, dtype, 'cuda')


def test_differentiating_twice_is_refused() -> None:
    inputs = make_inputs(KERNELS[0])
    out = norm_conv(*inputs, training=True)
    (grad,) = torch.autograd.grad(out.square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()
