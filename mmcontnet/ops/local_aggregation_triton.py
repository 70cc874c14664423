"""Triton kernels of local aggregation: forward, and one backward for both gradients.

A program takes a tile of pixels, some groups of weights, and all channels that share these, so that
what it loads of the weights serves all of them. Neighbouring pixels come from the caches. Tensors
may have any strides; sums are in fp32.
"""

# In a kernel's signature annotations tell Triton what is constant, not the checker what is what.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_NUM_WARPS = 8
_TILE = 2048  # elements, 8 for each thread

# No new compilation for other image sizes.
_SIZES = ['height', 'width', 'value_height', 'value_width']


@triton.jit
def _place(
    height,
    width,
    GROUPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Image of this program, and rows, columns, groups and shares of its tile.

    The tile has three dimensions, the last of them along what is dense in memory: (pixels, shares,
    groups) or (shares, groups, pixels).
    """
    program = tl.program_id(0)
    group_blocks: tl.constexpr = (GROUPS + BLOCK_G - 1) // BLOCK_G
    x_blocks = tl.cdiv(width, BLOCK_X)
    y_blocks = tl.cdiv(height, BLOCK_Y)
    g = program % group_blocks * BLOCK_G + tl.arange(0, BLOCK_G)
    program = program // group_blocks
    pixel = tl.arange(0, BLOCK_Y * BLOCK_X)
    x = program % x_blocks * BLOCK_X + pixel % BLOCK_X
    program = program // x_blocks
    y = program % y_blocks * BLOCK_Y + pixel // BLOCK_X
    image = (program // y_blocks).to(tl.int64)
    s = tl.arange(0, BLOCK_S)
    if CHANNELS_LAST:
        return image, y[:, None, None], x[:, None, None], g[None, None, :], s[None, :, None]
    else:
        return image, y[None, None, :], x[None, None, :], g[None, :, None], s[:, None, None]


# What follows counts in 64 bits between images and in 32 bits, and so in fewer registers, within.


@triton.jit(do_not_specialize=_SIZES)
def _forward(
    value, weight, out,
    height, width, value_height, value_width, padding,
    value_b, value_c, value_y, value_x,
    weight_b, weight_c, weight_y, weight_x,
    out_b, out_c, out_y, out_x,
    KERNEL_SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    SHARES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):  # fmt: skip
    image, y, x, g, s = _place(
        height, width, GROUPS, CHANNELS_LAST, BLOCK_S, BLOCK_G, BLOCK_Y, BLOCK_X
    )
    value += image * value_b
    weight += image * weight_b
    out += image * out_b
    c = s * GROUPS + g
    here = (y < height) & (x < width) & (g < GROUPS)
    total = tl.zeros((s + g + y).shape, tl.float32)
    # One row of neighbours unrolled: enough loads in flight, and little code at 7 x 7.
    for i in range(KERNEL_SIZE):
        for j in tl.static_range(KERNEL_SIZE):
            tap = (g * KERNEL_SIZE + i) * KERNEL_SIZE + j
            near_y, near_x = y + (i - padding), x + (j - padding)
            near = (near_y >= 0) & (near_y < value_height) & (near_x >= 0) & (near_x < value_width)
            v = tl.load(
                value + c * value_c + (near_y * value_y + near_x * value_x),
                mask=near & (g < GROUPS) & (s < SHARES),
                other=0,
            )
            w = tl.load(
                weight + tap * weight_c + (y * weight_y + x * weight_x),
                mask=here & near,
                other=0,
            )
            total += w.to(tl.float32) * v.to(tl.float32)
    tl.store(out + c * out_c + (y * out_y + x * out_x), total, mask=here & (s < SHARES))


@triton.jit(do_not_specialize=_SIZES)
def _backward(
    grad, value, weight, grad_value, grad_weight,
    height, width, value_height, value_width, padding,
    grad_b, grad_c, grad_y, grad_x,
    value_b, value_c, value_y, value_x,
    weight_b, weight_c, weight_y, weight_x,
    grad_value_b, grad_value_c, grad_value_y, grad_value_x,
    grad_weight_b, grad_weight_c, grad_weight_y, grad_weight_x,
    KERNEL_SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    SHARES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):  # fmt: skip
    image, y, x, g, s = _place(
        value_height, value_width, GROUPS, CHANNELS_LAST, BLOCK_S, BLOCK_G, BLOCK_Y, BLOCK_X
    )
    grad += image * grad_b
    value += image * value_b
    weight += image * weight_b
    grad_value += image * grad_value_b
    grad_weight += image * grad_weight_b
    c = s * GROUPS + g
    channel = (g < GROUPS) & (s < SHARES)
    here = (y < height) & (x < width)
    center = tl.load(
        grad + c * grad_c + (y * grad_y + x * grad_x), mask=here & channel, other=0
    ).to(tl.float32)
    total = tl.zeros(center.shape, tl.float32)
    for i in range(KERNEL_SIZE):
        for j in tl.static_range(KERNEL_SIZE):
            tap = (g * KERNEL_SIZE + i) * KERNEL_SIZE + j
            shift_y, shift_x = i - padding, j - padding

            near_y, near_x = y + shift_y, x + shift_x
            near = (near_y >= 0) & (near_y < value_height) & (near_x >= 0) & (near_x < value_width)
            v = tl.load(
                value + c * value_c + (near_y * value_y + near_x * value_x),
                mask=near & channel,
                other=0,
            )
            tl.store(
                grad_weight + tap * grad_weight_c + (y * grad_weight_y + x * grad_weight_x),
                tl.sum(center * v.to(tl.float32), 1 if CHANNELS_LAST else 0, keep_dims=True),
                mask=here & (g < GROUPS),
            )

            # The pixels that have this one as their neighbour.
            near_y, near_x = y - shift_y, x - shift_x
            near = (near_y >= 0) & (near_y < height) & (near_x >= 0) & (near_x < width)
            w = tl.load(
                weight + tap * weight_c + (near_y * weight_y + near_x * weight_x),
                mask=near & (g < GROUPS),
                other=0,
            )
            d = tl.load(
                grad + c * grad_c + (near_y * grad_y + near_x * grad_x),
                mask=near & channel,
                other=0,
            )
            total += w.to(tl.float32) * d.to(tl.float32)
    tl.store(
        grad_value + c * grad_value_c + (y * grad_value_y + x * grad_value_x),
        total,
        mask=(y < value_height) & (x < value_width) & channel,
    )


def _launch(
    kernel: Any,
    tensors: list[Tensor],
    tiled: Tensor,
    value: Tensor,
    weight: Tensor,
    kernel_size: int,
) -> None:
    """Run a kernel on ``tensors``, its inputs, then its outputs, with tiles of ``tiled``."""
    batch, channels, height, width = tiled.shape
    groups = weight.shape[1] // kernel_size**2
    shares = channels // groups
    channels_last = value.stride(1) == 1
    # Whole sectors of 32 bytes, and tiles that are not much larger with their margin than without.
    block_s = triton.next_power_of_2(shares)
    block_g = min(triton.next_power_of_2(groups), 32 // value.itemsize) if channels_last else 1
    block_x = min(triton.next_power_of_2(width), 4 if channels_last else 32)
    block_y = max(1, _TILE // (block_s * block_g * block_x))
    block_y = min(triton.next_power_of_2(height), block_y)
    programs = (
        batch
        * triton.cdiv(groups, block_g)
        * triton.cdiv(height, block_y)
        * triton.cdiv(width, block_x)
    )
    if not programs:
        return
    with torch.cuda.device_of(value):
        kernel[(programs,)](
            *tensors,
            *weight.shape[2:],
            *value.shape[2:],
            kernel_size // 2 if value.shape[2:] == weight.shape[2:] else 0,
            *(stride for tensor in tensors for stride in tensor.stride()),
            KERNEL_SIZE=kernel_size,
            GROUPS=groups,
            SHARES=shares,
            CHANNELS_LAST=channels_last,
            BLOCK_S=block_s,
            BLOCK_G=block_g,
            BLOCK_Y=block_y,
            BLOCK_X=block_x,
            num_warps=_NUM_WARPS,
        )


def forward(value: Tensor, weight: Tensor, out: Tensor, kernel_size: int) -> Tensor:
    """Fill ``out``, see :func:`mmcontnet.ops.local_aggregation`."""
    _launch(_forward, [value, weight, out], out, value, weight, kernel_size)
    return out


def backward(
    grad: Tensor, value: Tensor, weight: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the value and of the weight, from that of the output (B, C, H, W)."""
    grads = torch.empty_like(value), torch.empty_like(weight)
    _launch(_backward, [grad, value, weight, *grads], value, value, weight, kernel_size)
    return grads
