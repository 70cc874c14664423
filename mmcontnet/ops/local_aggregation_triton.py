"""Triton kernels of local aggregation.

One sums neighbours with their weights, forward and for the gradient of the value; one multiplies
for the gradient of the weight. A program takes a tile of pixels and some groups of weights; if it
sums, all channels that share these, so that what it loads of the weights serves all. Neighbouring
pixels come from the caches. Tensors may have any strides; sums are in fp32.
"""

# In a kernel's signature annotations tell Triton what is constant, not the checker what is what.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_NUM_WARPS = 4
_TILE = 2048  # elements, 16 for each thread; twice as many where a row of pixels has them
_BLOCK_X = 32  # pixels of a row

# No new compilation for other image sizes.
_SIZES = ['height', 'width', 'near_height', 'near_width']


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

    The tile has three dimensions, (shares, pixels, groups) or (shares, groups, pixels). Triton lets
    neighbouring threads take what is dense in memory, the last, and then the first of the others:
    channels-last, all channels of a pixel lie side by side.
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
        return image, y[None, :, None], x[None, :, None], g[None, None, :], s[:, None, None]
    else:
        return image, y[None, None, :], x[None, None, :], g[None, :, None], s[:, None, None]


# What follows counts in 64 bits between images and in 32 bits, and so in fewer registers, within.


@triton.jit(do_not_specialize=_SIZES)
def _sum(
    source, weight, out,
    height, width, near_height, near_width, padding,
    source_b, source_c, source_y, source_x,
    weight_b, weight_c, weight_y, weight_x,
    out_b, out_c, out_y, out_x,
    BACKWARD: tl.constexpr,
    KERNEL_SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    SHARES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):  # fmt: skip
    """Sum neighbours with the weights of the pixel, or, going back, with their own for it."""
    image, y, x, g, s = _place(
        height, width, GROUPS, CHANNELS_LAST, BLOCK_S, BLOCK_G, BLOCK_Y, BLOCK_X
    )
    source += image * source_b
    weight += image * weight_b
    out += image * out_b
    c = s * GROUPS + g
    here = (y < height) & (x < width) & (g < GROUPS)
    total = tl.zeros((s + g + y).shape, tl.float32)
    # One row of neighbours unrolled: enough loads in flight, and little code at 7 x 7.
    for i in range(KERNEL_SIZE):
        for j in tl.static_range(KERNEL_SIZE):
            tap = (g * KERNEL_SIZE + i) * KERNEL_SIZE + j
            if BACKWARD:
                near_y, near_x = y + (padding - i), x + (padding - j)
                weight_at = near_y * weight_y + near_x * weight_x
            else:
                near_y, near_x = y + (i - padding), x + (j - padding)
                weight_at = y * weight_y + x * weight_x
            near = (near_y >= 0) & (near_y < near_height)
            near &= (near_x >= 0) & (near_x < near_width)
            v = tl.load(
                source + c * source_c + (near_y * source_y + near_x * source_x),
                mask=near & (g < GROUPS) & (s < SHARES),
                other=0,
            )
            w = tl.load(weight + tap * weight_c + weight_at, mask=here & near, other=0)
            total += w.to(tl.float32) * v.to(tl.float32)
    tl.store(out + c * out_c + (y * out_y + x * out_x), total, mask=here & (s < SHARES))


@triton.jit(do_not_specialize=_SIZES)
def _multiply(
    grad, value, out,
    height, width, near_height, near_width, padding,
    grad_b, grad_c, grad_y, grad_x,
    value_b, value_c, value_y, value_x,
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
    """Sum each pixel's gradient times each neighbour's value over the channels of a group."""
    image, y, x, g, s = _place(
        height, width, GROUPS, CHANNELS_LAST, BLOCK_S, BLOCK_G, BLOCK_Y, BLOCK_X
    )
    grad += image * grad_b
    value += image * value_b
    out += image * out_b
    here = (y < height) & (x < width) & (g < GROUPS)
    for i in range(KERNEL_SIZE):
        for j in tl.static_range(KERNEL_SIZE):
            near_y, near_x = y + (i - padding), x + (j - padding)
            near = (near_y >= 0) & (near_y < near_height)
            near &= (near_x >= 0) & (near_x < near_width)
            total = tl.zeros((s + g + y).shape, tl.float32)
            # Share by share: no sum over what several threads hold.
            for share in range(SHARES):
                c = share * GROUPS + g
                d = tl.load(grad + c * grad_c + (y * grad_y + x * grad_x), mask=here, other=0)
                v = tl.load(
                    value + c * value_c + (near_y * value_y + near_x * value_x),
                    mask=here & near,
                    other=0,
                )
                total += d.to(tl.float32) * v.to(tl.float32)
            tap = (g * KERNEL_SIZE + i) * KERNEL_SIZE + j
            tl.store(out + tap * out_c + (y * out_y + x * out_x), total, mask=here)


def _launch(
    kernel: Any,
    tensors: tuple[Tensor, Tensor, Tensor],
    value: Tensor,
    weight: Tensor,
    kernel_size: int,
    *,
    tile_shares: bool = True,
    **options: bool,
) -> None:
    """Run a kernel on every pixel of its output.

    Args:
        kernel: One of those above.
        tensors: Its inputs, the first with the neighbours' size if it sums, and its output.
        value: Tells the layout, the shares and, if it has a margin, the padding.
        weight: Tells the groups.
        kernel_size: Side of the neighbourhood.
        tile_shares: Whether a tile has all channels of a group, or one at a time.
        options: More of the kernel's.
    """
    near, out = (tensors[0] if tile_shares else tensors[1]), tensors[2]
    batch, _, height, width = out.shape
    groups = weight.shape[1] // kernel_size**2
    shares = value.shape[1] // groups
    channels_last = value.stride(1) == 1
    # Whole sectors of 32 bytes along what is dense, in the maps and in the weights' rows.
    block_s = triton.next_power_of_2(shares) if tile_shares else 1
    block_g = min(triton.next_power_of_2(groups), 32 // value.itemsize) if channels_last else 1
    # Of many shares fewer pixels: the sums are in registers.
    block_x = max(1, min(_BLOCK_X, 2 * _TILE // (block_s * block_g)))
    block_x = min(triton.next_power_of_2(width), block_x)
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
            *out.shape[2:],
            *near.shape[2:],
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
            **options,
        )


def forward(value: Tensor, weight: Tensor, out: Tensor, kernel_size: int) -> Tensor:
    """Fill ``out``, see :func:`mmcontnet.ops.local_aggregation`."""
    _launch(_sum, (value, weight, out), value, weight, kernel_size, BACKWARD=False)
    return out


def backward(
    grad: Tensor, value: Tensor, weight: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the value and of the weight, from that of the output (B, C, H, W)."""
    grads = torch.empty_like(value), torch.empty_like(weight)
    _launch(_sum, (grad, weight, grads[0]), value, weight, kernel_size, BACKWARD=True)
    _launch(_multiply, (grad, value, grads[1]), value, weight, kernel_size, tile_shares=False)
    return grads
