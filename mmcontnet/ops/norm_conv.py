"""BatchNorm followed by a convolution, twice in CMT's feed-forward network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

from .conv_gelu import conv_gelu


def norm_conv(
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
    gelu: Literal['input', 'output'] | None = None,
    inplace: bool = False,
) -> Tensor:
    """Compute conv2d(batch_norm(x)), with GELU before or after it, keeping less for backward.

    Plain autograd keeps two maps, x and the normed one, and a third for a GELU before them. This
    keeps x alone; on a CPU, where GELU takes longer, gelu(x) too. It cannot be differentiated
    twice, nor be compiled on a GPU, where compilers fuse the steps anyway.

    Parameters and statistics are fp32, or fp64 for an input in fp64. Under autocast, where x is in
    half precision, statistics and sums are still in fp32, and the convolution is in half precision.

    Args:
        x: (B, C, H, W); more than one pixel in all if ``training``.
        norm_weight: BatchNorm's weight, (C,), like the next three.
        norm_bias: BatchNorm's bias.
        running_mean: Used unless ``training``, and updated otherwise.
        running_var: Like ``running_mean``.
        weight: Kernel, pointwise (C', C, 1, 1), or depthwise (C, 1, 3, 3) with zero padding.
        bias: (C',).
        training: Whether to normalise by the batch's own statistics.
        momentum: Share of the batch in the running statistics.
        eps: Added to the variance.
        gelu: Whether to apply GELU to x, or to the result.
        inplace: Whether x may be overwritten where no gradient is needed.

    Returns:
        (B, C', H, W).
    """
    tensors = (norm_weight, norm_bias, running_mean, running_var, weight, bias)
    settings = (training, momentum, eps)
    on_cpu = x.device.type == 'cpu'
    if torch.is_grad_enabled() and not on_cpu:
        out = _Recomputed.apply(x, *tensors, *settings, gelu == 'input')
    else:
        x = F.gelu(x) if gelu == 'input' else x
        if on_cpu and not torch.is_grad_enabled():
            # GELU may be part of the convolution where nothing is kept for its gradient.
            conv = conv_gelu if gelu == 'output' else F.conv2d
            return _forward(x, *tensors, *settings, conv=conv, inplace=inplace)[0]
        out = (_Folded.apply if on_cpu else _in_turn)(x, *tensors, *settings)
    return F.gelu(out) if gelu == 'output' else out


def _forward(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    *,
    conv: Callable[..., Tensor] = F.conv2d,
    inplace: bool = False,
) -> tuple[Tensor, ...]:
    """Return the result, mean, 1 / std, and the scale and shift that BatchNorm applies, (C,)."""
    with torch.autocast(x.device.type, enabled=False):
        mean, var = running_mean, running_var
        if training:
            mean, var = torch.batch_norm_update_stats(x, running_mean, running_var, momentum)
        rstd = (var + eps).rsqrt()
        scale = norm_weight * rstd
        shift = norm_bias - mean * scale
        if weight.shape[2] == 1:
            kernel, bias = weight * _channels(scale), bias + weight.flatten(1) @ shift
            out = conv(x, kernel.to(x.dtype), bias.to(x.dtype))
        else:
            # Padding is zero after BatchNorm, so that its shift cannot go into the bias.
            shifts, scales = (_channels(t.to(x.dtype)) for t in (shift, scale))
            normed = torch.addcmul(shifts, x, scales, out=x if inplace else None)
            kernel, bias = weight.to(x.dtype), bias.to(x.dtype)
            out = conv(normed, kernel, bias, padding=(1, 1), groups=len(weight))
    return out, mean, rstd, scale, shift


class _Folded(torch.autograd.Function):
    """Derives BatchNorm's gradients from that of the kernel, which saves passes over the maps."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, weight, ctx.training = inputs[0], inputs[5], inputs[7]
        out, *factors = _forward(*inputs)
        ctx.save_for_backward(x, weight, *factors)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd, scale, shift = ctx.saved_tensors
        depthwise = weight.shape[2] > 1
        options = _options(weight)
        with torch.autocast(x.device.type, enabled=False):
            kernel = weight * (scale.view(-1, 1, 1, 1) if depthwise else _channels(scale))
            grad_x = conv2d_input(x.shape, kernel.to(x.dtype), grad, **options)
            # First the gradient as if the convolution saw x, not the normed map; corrected below.
            grad_weight = conv2d_weight(x, weight.shape, grad, **options).to(weight.dtype)
            grad_bias = grad.sum((0, 2, 3), dtype=weight.dtype)
            # BatchNorm's gradients need two sums over all pixels, of the normed map's gradient and
            # of its product with x. The kernel's gradient contains them.
            product = (weight * grad_weight).sum((1, 2, 3) if depthwise else (0, 2, 3))
            if depthwise:
                sums = _sums_inside(grad, grad_bias)
                total = (weight * sums).sum((1, 2, 3))
                grad_weight.mul_(scale.view(-1, 1, 1, 1)).addcmul_(sums, shift.view(-1, 1, 1, 1))
            else:
                total = grad_bias @ weight.flatten(1)
                grad_weight.mul_(_channels(scale))[:, :, 0, 0].addr_(grad_bias, shift)
            product = (product - mean * total) * rstd
            if ctx.training:
                count = x.numel() / x.shape[1]
                factor = -scale * rstd * product / count
                constant = -scale * total / count - mean * factor
                factor, constant = (_channels(t.to(x.dtype)) for t in (factor, constant))
                grad_x.addcmul_(x, factor).add_(constant)
        return grad_x, product, total, None, None, grad_weight, grad_bias, None, None, None


def _in_turn(*inputs: Any) -> Tensor:
    """Norm, then convolve; the inputs are those of :func:`_forward`."""
    x, norm_weight, norm_bias, mean, var, weight, bias, *settings = inputs
    with torch.autocast(x.device.type, enabled=False):
        normed = F.batch_norm(x, mean, var, norm_weight, norm_bias, *settings)
        return F.conv2d(normed, weight.to(x.dtype), bias.to(x.dtype), **_options(weight))


class _Recomputed(torch.autograd.Function):
    """Computes all but the convolution again: more passes over maps, in fewer kernels to launch."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, *others, ctx.gelu = inputs
        norm_weight, norm_bias, mean, var, weight, _, ctx.training, _, ctx.eps = others
        statistics = () if ctx.training else (mean, var)
        ctx.save_for_backward(x, norm_weight, norm_bias, weight, *statistics)
        return _in_turn(F.gelu(x) if ctx.gelu else x, *others)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, weight, *statistics = ctx.saved_tensors
        mean, var = statistics or (None, None)
        with torch.autocast(x.device.type, enabled=False):
            with torch.enable_grad():
                inputs = [t.detach().requires_grad_() for t in (x, norm_weight, norm_bias)]
                norm = (mean, var, *inputs[1:], ctx.training, 0.0, ctx.eps)
                normed = F.batch_norm(F.gelu(inputs[0]) if ctx.gelu else inputs[0], *norm)
            options = _options(weight)
            grad_weight = conv2d_weight(normed, weight.shape, grad, **options).to(weight.dtype)
            grad_bias = grad.sum((0, 2, 3), dtype=weight.dtype)
            grad = conv2d_input(x.shape, weight.to(x.dtype), grad, **options)
            grads = torch.autograd.grad(normed, inputs, grad)
        return *grads, None, None, grad_weight, grad_bias, *[None] * 4


def _options(weight: Tensor) -> dict[str, Any]:
    """Return how the kernel is applied, for conv2d and its gradients."""
    return dict(padding=1, groups=len(weight)) if weight.shape[2] > 1 else {}


def _channels(x: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1)."""
    return x.view(1, -1, 1, 1)


def _sums_inside(grad: Tensor, total: Tensor) -> Tensor:
    """Sum a gradient over the pixels that have a neighbour at each tap of a 3x3 kernel.

    Args:
        grad: (B, C, H, W).
        total: Its sums over all pixels, (C,).

    Returns:
        (C, 1, 3, 3).
    """
    # PyTorch takes many times longer to sum a view than a copy.
    grad = grad.permute(2, 3, 0, 1)
    # The only row or column lies at both ends.
    rows = torch.stack((grad[0], grad[-1])).to(total.dtype)
    columns = torch.stack((grad[:, 0], grad[:, -1])).to(total.dtype)
    corners = torch.stack((rows[:, 0], rows[:, -1]), dim=1)
    sums = total.repeat(3, 3, 1)
    sums[::2] -= rows.flatten(1, 2).sum(1)[:, None]
    sums[:, ::2] -= columns.flatten(1, 2).sum(1)
    sums[::2, ::2] += corners.sum(2)
    return sums.permute(2, 0, 1).unsqueeze(1)
