"""Attention of every pixel to the window around it (ACmix in ResNet, section 3.2, equations 9-12).

Two implementations:

- ``'reference'``: unfolds every window, which takes kernel_size^2 times the memory of the keys and
  values. Its MACs are the method's own.
- ``'tiles'``: neighbouring queries share the pixels that their windows cover, in one masked call of
  the fused attention kernels. With windows and tiles of 7 x 7 pixels, keys and values take 3.4
  times their memory instead of 49 times, for 3.4 times the MACs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import attention
from .reference import reference_forced
from .reflect_pad import reflect_index

IMPLS = ('reference', 'tiles')

_TILE = 7  # pixels of the map; the fastest of 4, 7, 8 and 14 on a CPU, with windows of 7


def sliding_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: int = 7,
    *,
    stride: int = 1,
    impl: str | None = None,
) -> Tensor:
    """Attention over the window around each pixel, softmax(q k^T / sqrt(D)) v.

    Pixels beyond the border are those within it, reflected, as often as a small map asks for.

    Args:
        q: Queries, (B, heads, D, H, W).
        k: Keys, (B, heads, D, H, W).
        v: Values, (B, heads, D, H, W). Channels-last memory is fastest, for all three.
        kernel_size: Side of the window, odd.
        stride: Only the pixels at multiples of it have a query.
        impl: One of ``IMPLS``; None is tiles, or the reference under :func:`force_reference`.

    Returns:
        (B, heads, D, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: For shapes or arguments outside of what is described above.
    """
    if kernel_size < 1 or kernel_size % 2 == 0 or stride < 1:
        raise ValueError(
            'sliding_attention takes odd kernel sizes and strides from 1 on, '
            f'got kernel_size={kernel_size} and stride={stride}'
        )
    if q.dim() != 5 or not q.shape == k.shape == v.shape:
        raise ValueError(
            'sliding_attention takes queries, keys and values of one shape (B, heads, D, H, W), '
            f'got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}'
        )
    if impl is None:
        impl = 'reference' if reference_forced() else 'tiles'
    elif impl not in IMPLS:
        raise ValueError(f'impl must be one of {", ".join(map(repr, IMPLS))}, got {impl!r}')
    compute = _reference if impl == 'reference' else _tiles
    return compute(q, k, v, kernel_size, stride)


def _reference(q: Tensor, k: Tensor, v: Tensor, kernel_size: int, stride: int) -> Tensor:
    h, w = q.shape[3:]
    q = q[..., ::stride, ::stride]
    half = kernel_size // 2
    rows, cols = (reflect_index(torch.arange(-half, n + half, device=q.device), n) for n in (h, w))
    keys, values = (
        F.unfold(x[..., rows[:, None], cols].flatten(1, 2), kernel_size, stride=stride)
        .unflatten(1, (*q.shape[1:3], -1))
        .unflatten(4, q.shape[3:])
        for x in (k, v)
    )
    logits = torch.einsum('bndhw,bndshw->bnshw', q, keys) * q.shape[2] ** -0.5
    return torch.einsum('bnshw,bndshw->bndhw', logits.softmax(dim=2), values)


def _tiles(q: Tensor, k: Tensor, v: Tensor, kernel_size: int, stride: int) -> Tensor:
    b, heads, d, *size = q.shape
    rows, cols = (_Axis(n, kernel_size, stride, q.device) for n in size)
    seen = (rows.seen[:, None, :, None] & cols.seen[:, None]).flatten(2).flatten(0, 1)
    mask = torch.zeros(seen.shape, dtype=q.dtype, device=q.device)
    mask = mask.masked_fill_(~seen, float('-inf'))[None]
    queries = _gather(q, rows.queries, cols.queries)
    keys, values = (_gather(x, rows.windows, cols.windows) for x in (k, v))
    out = attention(queries, keys, values, mask)
    (n_rows, t_rows), (n_cols, t_cols) = rows.queries.shape, cols.queries.shape
    out = out.reshape(b, n_rows, n_cols, heads, t_rows, t_cols, d).permute(0, 1, 4, 2, 5, 3, 6)
    out = out.reshape(b, n_rows * t_rows, n_cols * t_cols, heads, d)
    return out[:, : rows.outputs, : cols.outputs].permute(0, 3, 4, 1, 2)


class _Axis:
    """One axis of the map, cut into tiles of equal size.

    Attributes:
        outputs: Number of queries.
        queries: Their places by tile, (tiles, queries of a tile); the last tile may repeat some.
        windows: Places of what the queries of a tile see, (tiles, keys of a tile).
        seen: Which keys each query of a tile sees, (queries of a tile, keys of a tile).
    """

    def __init__(self, size: int, kernel_size: int, stride: int, device: torch.device) -> None:
        self.outputs = -(-size // stride)
        tiles = -(-self.outputs * stride // _TILE)
        # As even as can be: 8 queries make two tiles of 4, not one of 7 and one of 1.
        length = -(-self.outputs // tiles)
        tiles = -(-self.outputs // length)
        starts = torch.arange(tiles, device=device)[:, None] * (length * stride)
        query = torch.arange(length, device=device) * stride
        key = torch.arange((length - 1) * stride + kernel_size, device=device)
        self.queries = reflect_index(starts + query, size)
        self.windows = reflect_index(starts + key - kernel_size // 2, size)
        ahead = key - query[:, None]
        self.seen = (ahead >= 0) & (ahead < kernel_size)


def _gather(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """(B, heads, D, H, W) -> (B * tiles, heads, N, D), the N pixels of every tile."""
    b, heads, d, h, w = x.shape
    # One index cuts, overlaps, reflects and fills up tiles; its backward adds up.
    index = (rows[:, None, :, None] * w + cols[:, None]).flatten()
    tokens = x.permute(0, 3, 4, 1, 2).reshape(b, h * w, heads * d).index_select(1, index)
    tiles, size = rows.shape[0] * cols.shape[0], rows.shape[1] * cols.shape[1]
    return tokens.view(b * tiles, size, heads, d).transpose(1, 2)
