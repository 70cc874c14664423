"""Cut feature maps into square patches of tokens, and put them together again."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad a map at the right and the bottom until both sides are multiples of ``multiple``.

    Args:
        x: (B, C, H, W).
        multiple: In pixels of the map.

    Returns:
        (B, C, H', W'); ``x`` itself where nothing is missing.
    """
    pad_h, pad_w = -x.shape[2] % multiple, -x.shape[3] % multiple
    return F.pad(x, (0, pad_w, 0, pad_h)) if pad_h or pad_w else x


def partition_patches(x: Tensor, patch_size: int, order: int | None = None) -> Tensor:
    """Cut a map into patches of tokens.

    Within a patch the tokens come sub-patch by sub-patch of ``order`` x ``order`` pixels, each of
    them row by row. So the result for patches of 14 in order 7 is, after a mere reshape, also the
    result for patches of 7: encoders of both sizes can work on it without moving data.

    Args:
        x: (B, C, H, W); H and W are multiples of ``patch_size``. Channels-last is fastest.
        patch_size: Side of a patch in pixels of the map.
        order: Side of the sub-patches, a divisor of ``patch_size``; None is row by row.

    Returns:
        (B, H * W, C), patch after patch, row by row of patches.
    """
    order = order or patch_size
    b, c, h, w = x.shape
    rows, cols, inner = h // patch_size, w // patch_size, patch_size // order
    x = x.permute(0, 2, 3, 1).reshape(b, rows, inner, order, cols, inner, order, c)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, h * w, c)


def merge_patches(
    tokens: Tensor, size: tuple[int, int], patch_size: int, order: int | None = None
) -> Tensor:
    """Undo :func:`partition_patches`.

    Args:
        tokens: (B, H * W, C), patch after patch.
        size: (H, W) of the map in pixels.
        patch_size: As for :func:`partition_patches`.
        order: As for :func:`partition_patches`.

    Returns:
        (B, C, H, W), in channels-last memory format.
    """
    order = order or patch_size
    h, w = size
    rows, cols, inner = h // patch_size, w // patch_size, patch_size // order
    b, _, c = tokens.shape
    x = tokens.reshape(b, rows, cols, inner, inner, order, order, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, h, w, c).permute(0, 3, 1, 2)
