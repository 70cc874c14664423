"""Reflect the border of a map, however small it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reflect_pad(x: Tensor, margin: int) -> Tensor:
    """Pad a map with its own pixels, reflected at the border, as often as a small map asks for.

    Args:
        x: (B, C, H, W).
        margin: In pixels of the map; PyTorch's own padding takes less than H and W only.

    Returns:
        (B, C, H + 2 * margin, W + 2 * margin).
    """
    h, w = x.shape[2:]
    if margin < min(h, w):
        return F.pad(x, [margin] * 4, 'reflect')
    rows, cols = (
        reflect_index(torch.arange(-margin, n + margin, device=x.device), n) for n in (h, w)
    )
    return x[..., rows[:, None], cols]


def reflect_index(index: Tensor, size: int) -> Tensor:
    """Fold places outside of 0 .. size - 1 back at the border, which is not repeated."""
    period = max(1, 2 * (size - 1))
    index = index.abs() % period
    return torch.minimum(index, period - index) if size > 1 else index
