"""GELU, BatchNorm and convolution by one op, against the three written one after the other."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcontnet.ops import gelu_norm_conv

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
        F.gelu(x), running_mean, running_var, norm_weight, norm_bias, training, momentum, eps
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
def test_values_gradients_and_running_statistics_equal_the_three_steps(
    kernel: tuple[int, ...], training: bool, size: tuple[int, int], dtype: torch.dtype
) -> None:
    settings = dict(training=training, momentum=0.3, eps=1e-3)
    results = []
    for function, precision in ((gelu_norm_conv, dtype), (reference, torch.float64)):
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
        return gelu_norm_conv(*copies, training=training)

    assert torch.autograd.gradcheck(function, inputs)


@every_mode
@every_kernel
def test_two_maps_are_kept_for_backward(kernel: tuple[int, ...], training: bool) -> None:
    inputs = make_inputs(kernel)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = gelu_norm_conv(*inputs, training=training)
    assert sum(n == inputs[0].numel() for n in kept.values()) == 2
    out.sum().backward()


def test_differentiating_twice_is_refused() -> None:
    inputs = make_inputs(KERNELS[0])
    out = gelu_norm_conv(*inputs, training=True)
    (grad,) = torch.autograd.grad(out.square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()
