"""GELU, BatchNorm and the convolution after them, as CMT's feed-forward network has them twice."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def gelu_norm_conv(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute conv2d(batch_norm(gelu(x))) with what BatchNorm multiplies and adds in the kernel.

    The normalised map is not kept for backward, nor read again to get BatchNorm's gradients: these
    follow from the kernel's. For maps of many channels that is a third of what the plain form
    keeps. It cannot be differentiated twice.

    Args:
        x: (B, C, H, W), fp32 or fp64; more than one pixel in all if ``training``.
        norm_weight: BatchNorm's weight, (C,), as for all that is its own.
        norm_bias: BatchNorm's bias.
        running_mean: Used unless ``training``, and updated if so.
        running_var: As ``running_mean``.
        weight: Kernel of the convolution, 1x1 (C', C, 1, 1), or depthwise and 3x3 (C, 1, 3, 3),
            zero padded.
        bias: (C',).
        training: Whether to normalise by the batch's own statistics.
        momentum: Share of the batch in the running statistics.
        eps: Added to the variance.

    Returns:
        (B, C', H, W).
    """
    return _GeluNormConv.apply(
        x,
        norm_weight,
        norm_bias,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        eps,
    )


class _GeluNormConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
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
    ) -> Tensor:
        active = F.gelu(x)
        mean, var = running_mean, running_var
        if training:
            mean, var = torch.batch_norm_update_stats(active, running_mean, running_var, momentum)
        rstd = (var + eps).rsqrt()
        scale = norm_weight * rstd
        shift = norm_bias - mean * scale
        ctx.training = training
        if weight.shape[2] == 1:
            kernel = weight * _channels(scale)
            out = F.conv2d(active, kernel, bias + weight.flatten(1) @ shift)
        else:
            kernel = weight * scale.view(-1, 1, 1, 1)
            # Padding is zero after BatchNorm, whose shift then cannot go into the bias.
            normed = torch.addcmul(_channels(shift), active, _channels(scale))
            out = F.conv2d(normed, weight, bias, padding=1, groups=len(weight))
        ctx.save_for_backward(x, active, weight, kernel, mean, rstd, scale, shift)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, active, weight, kernel, mean, rstd, scale, shift = ctx.saved_tensors
        depthwise = weight.shape[2] > 1
        padding, groups = (1, len(weight)) if depthwise else (0, 1)
        grad_active, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad,
            active,
            kernel,
            [len(weight)],
            [1, 1],
            [padding, padding],
            [1, 1],
            False,
            [0, 0],
            groups,
            [True, True, True],
        )
        # What BatchNorm's backward wants to know of the gradient of the normalised map: its sums,
        # alone and times `active`. The kernel's gradient has them already.
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
            grad_active.addcmul_(active, _channels(factor)).add_(_channels(constant))
        torch.ops.aten.gelu_backward(grad_active, x, grad_input=grad_active)
        return grad_active, product, total, None, None, grad_weight, grad_bias, None, None, None


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
    # The sums are of copies: of a view, PyTorch's take many times longer.
    grad = grad.permute(2, 3, 0, 1)
    # The only row or column lies at both ends.
    rows = torch.stack((grad[0], grad[-1]))
    columns = torch.stack((grad[:, 0], grad[:, -1]))
    corners = torch.stack((rows[:, 0], rows[:, -1]), dim=1)
    sums = total.repeat(3, 3, 1)
    sums[::2] -= rows.flatten(1, 2).sum(1)[:, None]
    sums[:, ::2] -= columns.flatten(1, 2).sum(1)
    sums[::2, ::2] += corners.sum(2)
    return sums.permute(2, 0, 1).unsqueeze(1)
