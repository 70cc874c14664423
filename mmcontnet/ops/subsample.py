"""Subsampling before the 1x1 convolution of a shortcut with a stride."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def subsample(x: Tensor, stride: int, average: bool = False) -> Tensor:
    """Take one pixel of each square, or the mean of its pixels.

    The convolution itself must not stride: oneDNN's backward of a strided 1x1 convolution writes
    out of bounds where a channels-last map has fewer than 16 channels (uxlfoundation/oneDNN#6035).

    Args:
        x: (B, C, H, W).
        stride: Side of the squares in pixels.
        average: Mean of the square's pixels that exist, as in ResNet-D, instead of its first.

    Returns:
        (B, C, ceil(H / stride), ceil(W / stride)).
    """
    if average and stride > 1:
        return F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False)
    return x[..., ::stride, ::stride]
