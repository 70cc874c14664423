"""Bicubic resizing of a bias between every query and every key of two grids."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def resize_spatial(
    table: Tensor, native: Size, reduction: int, size: Size
) -> tuple[Tensor, Tensor]:
    """Resize over the grid of the queries, then over that of the keys.

    Each key stands for ``reduction`` x ``reduction`` queries; where these do not divide the map,
    the last keys reach over its edge, and are interpolated at the centres of what they cover.

    The result is linear in the table, and so are its two steps: B' = rows @ columns^T.

    Args:
        table: The bias B, (heads, N, M), for queries and keys of the native map.
        native: (H, W) of that map; N = H * W, and M = H * W / reduction^2.
        reduction: Queries to a key along each axis.
        size: (H', W') of the map to resize to.

    Returns:
        ``rows`` (heads, H' * W', M) and ``columns`` (M', M), M' = ceil(H' / k) * ceil(W' / k).
    """
    heads, _, keys = table.shape
    grid = table.mT.reshape(1, heads * keys, *native)
    rows = F.interpolate(grid, size, mode='bicubic', align_corners=False)
    rows = rows.reshape(heads, keys, -1).mT

    # grid_sample takes places, from -1 to 1 across the map; interpolate would only take sizes.
    y, x = (
        (2 * torch.arange(math.ceil(n / reduction), device=table.device) + 1) * (reduction / n) - 1
        for n in size
    )
    places = torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1)[None]
    one_hot = torch.eye(keys, device=table.device)
    one_hot = one_hot.reshape(1, keys, native[0] // reduction, native[1] // reduction)
    columns = F.grid_sample(
        one_hot, places, mode='bicubic', padding_mode='border', align_corners=False
    )
    return rows, columns.reshape(keys, -1).T.to(table.dtype)


def resize_matrix(table: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Resize the matrix of queries by keys as if it were a picture, as CMT's formula reads.

    Args:
        table: The bias B, (heads, N, M).
        size: (N', M').

    Returns:
        ``rows`` (heads, N', M) and ``columns`` (M', M), as for :func:`resize_spatial`.
    """
    keys = table.shape[2]
    rows = F.interpolate(table[None], (size[0], keys), mode='bicubic', align_corners=False)[0]
    one_hot = torch.eye(keys, device=table.device, dtype=table.dtype)[None, None]
    columns = F.interpolate(one_hot, (size[1], keys), mode='bicubic', align_corners=False)
    return rows, columns[0, 0]
