"""BatchNorm and convolution by one op, against the two written one after the other."""

from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcontnet.ops import norm_conv

# Of one group of channels, and depthwise.
KERNELS = [(7, 6, 1, 1), (6, 1, 3, 3)]
# A border may be all that a map has, or both ends of a side the same.
SIZES = [(12, 13), (1, 4), (3, 1), (2, 2)]


def recomputed(
    *tensors: Tensor,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    gelu: bool = False,
) -> Tensor:
    function = import_module('mmcontnet.ops.norm_conv')._Recomputed
    return function.apply(*tensors, training, momentum, eps, gelu)


op = partial(norm_conv, momentum=0.1, eps=1e-5)
#: What this device computes, and what a GPU computes, on a CPU.
FORMS = {
    'op': op,
    'op, GELU': partial(op, gelu='input'),
    'GPU': recomputed,
    'GPU, GELU': partial(recomputed, gelu=True),
}

every_kernel = pytest.mark.parametrize('kernel', KERNELS, ids=['pointwise', 'depthwise'])
every_form = pytest.mark.parametrize('form', ['op', 'GPU', 'GPU, GELU'])
every_mode = pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])


def reference(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    gelu: bool,
    **settings: Any,
) -> Tensor:
    x = F.gelu(x) if gelu else x
    normed = F.batch_norm(x, running_mean, running_var, norm_weight, norm_bias, **settings)
    padding, groups = (1, len(weight)) if weight.shape[2] > 1 else (0, 1)
    return F.conv2d(normed, weight, bias, padding=padding, groups=groups)


def make_inputs(kernel: tuple[int, ...], size: tuple[int, int] = (5, 6)) -> list[Tensor]:
    """All tensors in order, in fp64; the fourth and the fifth are the running statistics."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 6, *size), (6,), (6,), (6,), (6,), kernel, (kernel[0],)]
    inputs = [torch.randn(shape, generator=generator).double() for shape in shapes]
    # As after GELU, values have a mean; they are the same in every precision.
    inputs[0] = F.gelu(2 * inputs[0]).half().bfloat16().double()
    inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    inputs[4] = inputs[4].abs() + 0.1
    return [x.requires_grad_(i not in (3, 4)) for i, x in enumerate(inputs)]


def results(
    function: Any, inputs: list[Tensor], training: bool, dtype: torch.dtype, device: str = 'cpu'
) -> list[Tensor]:
    """Return values, statistics and gradients in fp64; half precision is autocast's."""
    wide = torch.promote_types(dtype, torch.float32)
    half = dtype is not wide
    inputs = [
        x.detach().to(device, wide if i else dtype, copy=True).requires_grad_(x.requires_grad)
        for i, x in enumerate(inputs)
    ]
    with torch.autocast(device, dtype if half else torch.bfloat16, enabled=half):
        out = function(*inputs, training=training, momentum=0.3, eps=1e-3)
    assert out.dtype == dtype
    seed = torch.linspace(-1, 1, out.numel(), dtype=wide, device=device).view_as(out)
    grads = torch.autograd.grad(out, [x for x in inputs if x.requires_grad], seed.to(dtype))
    assert [g.dtype for g in grads] == [x.dtype for x in inputs if x.requires_grad]
    return [x.detach().double() for x in (out, *inputs[3:5], *grads)]


def check(
    kernel: tuple[int, ...],
    size: tuple[int, int],
    training: bool,
    dtype: torch.dtype,
    device: str = 'cpu',
    form: str = 'op',
) -> None:
    inputs = make_inputs(kernel, size)
    in_steps = partial(reference, gelu='GELU' in form)
    expected = results(in_steps, inputs, training, torch.float64, device)
    plain = results(in_steps, inputs, training, dtype, device)
    actual = results(FORMS[form], inputs, training, dtype, device)
    eps = {torch.float64: 1e-10, torch.float32: 1e-5}.get(dtype, 2 * torch.finfo(dtype).eps)
    for a, p, e in zip(actual, plain, expected, strict=True):
        # By the largest: single gradients are differences of larger numbers.
        allowed = 2 * (p - e).abs().max() if dtype.itemsize == 2 else torch.zeros(())
        assert (a - e).abs().max() <= torch.maximum(allowed, eps * e.abs().max().clamp(min=1))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('size', SIZES)
@every_mode
@every_kernel
@every_form
def test_values_gradients_and_running_statistics_equal_the_two_steps(
    form: str,
    kernel: tuple[int, ...],
    training: bool,
    size: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    check(kernel, size, training, dtype, form=form)


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@every_mode
@every_kernel
@pytest.mark.parametrize('form', ['op', 'op, GELU'])
def test_on_a_gpu_too(
    form: str, kernel: tuple[int, ...], training: bool, dtype: torch.dtype
) -> None:
    check(kernel, SIZES[0], training, dtype, 'cuda', form)


@every_mode
@every_kernel
@every_form
def test_one_map_is_kept_for_backward(form: str, kernel: tuple[int, ...], training: bool) -> None:
    inputs = make_inputs(kernel)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = FORMS[form](*inputs, training=training)
    assert sum(n == inputs[0].numel() for n in kept.values()) == 1
    out.sum().backward()


def test_differentiating_twice_is_refused() -> None:
    inputs = make_inputs(KERNELS[0])
    out = op(*inputs, training=True)
    (grad,) = torch.autograd.grad(out.square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()
