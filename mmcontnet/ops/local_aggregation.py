"""Local aggregation: a convolution with another kernel at every pixel (CoTNet, section 3.2).

Three implementations, all of which sum in fp32 (fp64 for fp64 inputs):

- ``'reference'``: plain differentiable ops, for exporters. ``torch.compile`` does not use it: on a
  CPU the compiled ops are faster with many groups, but much slower with few.
- ``'eager'``: has its own backward, which keeps the inputs only. For CPUs, fp64, and GPUs without
  Triton.
- ``'triton'``: one kernel forward, and one for each gradient. For GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

IMPLS = ('reference', 'eager', 'triton')

_TRITON = find_spec('triton') is not None
_TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

#: With fewer, PyTorch's innermost loop over channels-last tensors is too short for its vectors.
_MIN_GROUPS = 16


def local_aggregation(
    value: Tensor,
    weight: Tensor,
    kernel_size: int = 3,
    *,
    impl: str | None = None,
) -> Tensor:
    """Sum each pixel's neighbourhood with weights of its own.

    The dtypes may differ, as they do under autocast, where GroupNorm gives fp32 and convolutions
    give bf16.

    Args:
        value: (B, C, H, W), zero beyond its border; or (B, C, H + 2 * M, W + 2 * M) with a margin
            of M = kernel_size // 2 pixels that are the neighbours of others only.
        weight: (B, G * kernel_size^2, H, W), where G divides C. Channel c of the value is weighted
            by group c mod G, whose weights are the channels from ``(c % G) * kernel_size**2`` on,
            one for each neighbour, row by row.
        kernel_size: Side of the neighbourhood, odd.
        impl: One of ``IMPLS``; None decides by device and dtype.

    Returns:
        (B, C, H, W), in the value's dtype and memory format.

    Raises:
        ValueError: For shapes or arguments outside of what is described above.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f'local_aggregation takes odd kernel sizes, got {kernel_size=}')
    b, c, h, w = value.shape
    groups = weight.shape[1] // kernel_size**2
    margin = kernel_size // 2
    sizes = (h, w), (h - 2 * margin, w - 2 * margin)
    if (
        not groups
        or c % groups
        or weight.shape[:2] != (b, groups * kernel_size**2)
        or weight.shape[2:] not in sizes
    ):
        raise ValueError(
            f'local_aggregation with kernel_size={kernel_size} takes a weight of shape '
            f'({b}, G * {kernel_size**2}, {h}, {w}), where G divides {c}, for a value of shape '
            f'{tuple(value.shape)}, smaller by {2 * margin} pixels if the value has a margin, '
            f'got {tuple(weight.shape)}'
        )
    if impl is None:
        impl = _choose_impl(value, weight)
    elif impl not in IMPLS:
        raise ValueError(f'impl must be one of {", ".join(map(repr, IMPLS))}, got {impl!r}')
    if impl == 'reference':
        return _reference(value, weight, kernel_size)
    return _op(value, weight, kernel_size, impl)


def _choose_impl(value: Tensor, weight: Tensor) -> str:
    # Before torch 2.7, exporting cannot be told from compiling.
    exporting = getattr(torch.compiler, 'is_exporting', torch.compiler.is_compiling)
    if exporting() or torch.jit.is_tracing():
        return 'reference'
    if value.is_cuda and _TRITON and {value.dtype, weight.dtype} <= set(_TRITON_DTYPES):
        return 'triton'
    return 'eager'


def _sum_dtype(value: Tensor, weight: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(value.dtype, weight.dtype), torch.float32)


def _padding(value: Tensor, weight: Tensor, kernel_size: int) -> int:
    """Zeros around the value in pixels: none if it has its margin."""
    return 0 if value.shape[2:] != weight.shape[2:] else kernel_size // 2


def _empty_output(value: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty_like(value[..., : weight.shape[2], : weight.shape[3]], dtype=dtype)


def _reference(value: Tensor, weight: Tensor, kernel_size: int) -> Tensor:
    h, w = weight.shape[2:]
    dtype = _sum_dtype(value, weight)
    taps = weight.to(dtype).unflatten(1, (1, -1, kernel_size**2))
    padding = _padding(value, weight, kernel_size)
    padded = F.pad(value.to(dtype), [padding] * 4).unflatten(1, (-1, taps.shape[2]))
    # By rows of taps: exporters take the longer, the more steps they see.
    shifts = range(kernel_size)
    columns = torch.stack([padded[..., x : x + w] for x in shifts], dim=3)
    rows = taps.split(kernel_size, dim=3)
    total = padded.new_zeros(())
    for y, row in zip(shifts, rows, strict=True):
        total = total + (row * columns[..., y : y + h, :]).sum(dim=3)
    return total.flatten(1, 2).to(value.dtype)


def _shifts(
    value: Tensor, weight: Tensor, kernel_size: int
) -> Iterator[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
    """Give each tap, the pixels that have this neighbour, and these neighbours: (B, H, W)."""
    padding = _padding(value, weight, kernel_size)
    sizes = list(zip(value.shape[2:], weight.shape[2:], strict=True))
    for tap in range(kernel_size**2):
        here, there = [slice(None)], [slice(None)]
        for i, (value_size, size) in zip(divmod(tap, kernel_size), sizes, strict=True):
            shift = i - padding
            stop = max(0, min(size, value_size - shift))
            here.append(slice(max(0, -shift), stop))
            there.append(slice(max(0, shift), max(0, stop + shift)))
        yield tap, tuple(here), tuple(there)


def _views(value: Tensor, weight: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Return the value as (B, H, W, C / G, G), and the weight as (taps, B, H, W, 1, G).

    The innermost loop of PyTorch's kernels runs over G if the value is channels-last, and over W
    otherwise; the weights of a tap are made dense there.
    """
    dtype = _sum_dtype(value, weight)
    groups = weight.shape[1] // kernel_size**2
    values = value.to(dtype).permute(0, 2, 3, 1).unflatten(3, (-1, groups))
    taps = weight.to(dtype).unflatten(1, (groups, kernel_size**2))
    if value.stride(1) == 1:
        taps = taps.permute(2, 0, 3, 4, 1).contiguous()
    else:
        taps = taps.contiguous().permute(2, 0, 3, 4, 1)
    return values, taps.unsqueeze(4)


def _eager(value: Tensor, weight: Tensor, kernel_size: int) -> Tensor:
    values, taps = _views(value, weight, kernel_size)
    total = _empty_output(value, weight, values.dtype).zero_()
    totals = total.permute(0, 2, 3, 1).unflatten(3, values.shape[3:])
    for tap, here, there in _shifts(value, weight, kernel_size):
        totals[here].addcmul_(values[there], taps[tap][here])
    return total.to(value.dtype)


def _eager_backward(
    grad: Tensor, value: Tensor, weight: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor]:
    values, taps = _views(value, weight, kernel_size)
    grads = grad.to(values.dtype).permute(0, 2, 3, 1).unflatten(3, values.shape[3:])
    grad_value = torch.zeros_like(value, dtype=values.dtype)
    grad_values = grad_value.permute(0, 2, 3, 1).view(values.shape)
    grad_taps = torch.zeros_like(taps)
    for tap, here, there in _shifts(value, weight, kernel_size):
        grad_values[there].addcmul_(grads[here], taps[tap][here])
        torch.sum(grads[here] * values[there], 3, keepdim=True, out=grad_taps[tap][here])
    grad_weight = torch.empty_like(weight)
    grad_weight.unflatten(1, (-1, kernel_size**2)).copy_(
        grad_taps.squeeze(4).permute(1, 4, 0, 2, 3)
    )
    return grad_value.to(value.dtype), grad_weight


def _is_faster_contiguous(value: Tensor, weight: Tensor, kernel_size: int) -> bool:
    return value.stride(1) == 1 and weight.shape[1] < _MIN_GROUPS * kernel_size**2


@torch.library.custom_op(
    'mmcontnet::local_aggregation',
    mutates_args=(),
    schema='(Tensor value, Tensor weight, int kernel_size, str impl) -> Tensor',
)
def _op(value: Tensor, weight: Tensor, kernel_size: int, impl: str) -> Tensor:
    if impl == 'triton':
        from .local_aggregation_triton import forward

        out = _empty_output(value, weight)
        return forward(value, weight, out, kernel_size)
    if _is_faster_contiguous(value, weight, kernel_size):
        out = _eager(value.contiguous(), weight, kernel_size)
        return out.contiguous(memory_format=torch.channels_last)
    return _eager(value, weight, kernel_size)


@torch.library.custom_op(
    'mmcontnet::local_aggregation_backward',
    mutates_args=(),
    schema='(Tensor grad, Tensor value, Tensor weight, int kernel_size, str impl)'
    ' -> (Tensor, Tensor)',
)
def _op_backward(
    grad: Tensor, value: Tensor, weight: Tensor, kernel_size: int, impl: str
) -> tuple[Tensor, Tensor]:
    if impl == 'triton':
        from .local_aggregation_triton import backward

        return backward(grad, value, weight, kernel_size)
    if _is_faster_contiguous(value, weight, kernel_size):
        grad, value = grad.contiguous(), value.contiguous()
        grad_value, grad_weight = _eager_backward(grad, value, weight, kernel_size)
        return grad_value.contiguous(memory_format=torch.channels_last), grad_weight
    return _eager_backward(grad, value, weight, kernel_size)


@_op.register_fake
def _(value: Tensor, weight: Tensor, *args: Any) -> Tensor:
    return _empty_output(value, weight)


@_op_backward.register_fake
def _(grad: Tensor, value: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(value), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    value, weight, *ctx.settings = inputs
    ctx.save_for_backward(value, weight)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_op_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None


_op.register_autograd(_differentiate, setup_context=_save)


@register_flop_formula(torch.ops.mmcontnet.local_aggregation)
def _flops(
    value_shape: torch.Size, weight_shape: torch.Size, kernel_size: int, *args: Any, **kwargs: Any
) -> int:
    b, c = value_shape[:2]
    # By PyTorch's convention two for a multiply-add.
    return 2 * b * c * math.prod(weight_shape[2:]) * kernel_size**2
