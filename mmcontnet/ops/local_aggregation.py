"""Local aggregation: a convolution whose kernels differ from pixel to pixel (CoTNet, section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def local_aggregation(
    value: Tensor, weight: Tensor, kernel_size: int = 3, dilation: int = 1
) -> Tensor:
    """Sum each pixel's zero-padded neighbourhood with weights of its own.

    Args:
        value: (B, C, H, W).
        weight: (B, G * kernel_size^2, H, W), where G divides C. Channel c of the value is weighted
            by group c mod G, whose weights are the channels from ``(c % G) * kernel_size**2`` on,
            one for each neighbour, row by row.
        kernel_size: Side of the neighbourhood, odd.
        dilation: Distance between neighbours in pixels.

    Returns:
        (B, C, H, W).
    """
    b, c, h, w = value.shape
    taps = weight.reshape(b, 1, -1, kernel_size**2, h, w)
    groups = taps.shape[2]
    margin = kernel_size // 2 * dilation
    padded = F.pad(value, [margin] * 4)
    total = value.new_zeros(())
    for tap in range(kernel_size**2):
        y, x = (i * dilation for i in divmod(tap, kernel_size))
        shifted = padded[:, :, y : y + h, x : x + w].reshape(b, c // groups, groups, h, w)
        total = total + taps[:, :, :, tap] * shifted
    return total.reshape(b, c, h, w)
