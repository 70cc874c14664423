"""Scaled dot-product attention over many small windows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor

# The fused CUDA kernels put windows x heads on a grid axis that holds 65,535 blocks, and fail with
# "invalid configuration argument" beyond it. ConTNet's first stage has 64 windows an image, so a
# batch of 1024 images at 224 x 224 gets there.
MAX_CUDA_BATCH = 65_535
# Elements to which the fused CUDA kernels want rows to be aligned.
_ALIGNMENT = 8
# Blocks of 128 keys, over all windows and heads, that occupy a large GPU.
_MIN_BLOCKS = 256


def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, max_batch: int | None = None
) -> Tensor:
    """Attention within each window: softmax(q k^T / sqrt(D) + bias) v.

    Args:
        q: Queries, (windows, heads, N, D).
        k: Keys, (windows, heads, M, D).
        v: Values, (windows, heads, M, D).
        bias: Added to the logits of every window, (heads, N, M); or another for each of n windows,
            (n, heads, N, M), and again for the next n.
        max_batch: Largest windows x heads for one kernel call; more are computed in chunks.
            None decides by device: chunks on CUDA only.

    Returns:
        (windows, heads, N, D).
    """
    if bias is None:
        return _fused(q, k, v, max_batch)
    # A parameter is fp32 where autocast made the queries something else.
    bias = bias.to(q.dtype)
    if q.device.type == 'cpu' and bias.requires_grad and torch.is_grad_enabled():
        return _plain_attention(q, k, v, bias)
    # The CPU's fused kernel refuses a parameter even where no gradient is recorded.
    bias = bias if torch.is_grad_enabled() else bias.detach()
    if bias.dim() == 3:
        bias = bias[None]
    if q.is_cuda:
        # Rows that do not start at multiples of 16 bytes take twice the time.
        bias = F.pad(bias, (0, -bias.shape[-1] % _ALIGNMENT))
    if len(bias) > 1:
        bias = bias.repeat(q.shape[0] // len(bias), 1, 1, 1)
    return _fused(q, k, v, max_batch, bias[..., : k.shape[2]])


def _fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    max_batch: int | None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Call the fused kernels; a bias is for all windows, (1, ...), or for each of them."""
    shape = *q.shape[:-1], v.shape[-1]
    if bias is None:
        q, k, v = _spread(q, k, v, _splits(q, k))
    if max_batch is None and q.is_cuda:
        max_batch = MAX_CUDA_BATCH
    windows, heads = q.shape[:2]
    if max_batch is None or windows * heads <= max_batch:
        return F.scaled_dot_product_attention(q, k, v, bias, scale=scale).reshape(shape)
    chunk = max(1, max_batch // heads)
    parts = zip(q.split(chunk), k.split(chunk), v.split(chunk), strict=True)
    biases: Iterator[Tensor | None] = repeat(bias)
    if bias is not None and len(bias) == windows:
        biases = iter(bias.split(chunk))
    outs = [F.scaled_dot_product_attention(*part, next(biases), scale=scale) for part in parts]
    return torch.cat(outs).reshape(shape)


def _splits(q: Tensor, k: Tensor) -> int:
    """Return into how many parts the queries go on a GPU, so that their backward occupies it.

    It works on blocks of keys side by side, and on the queries one after the other. A detector's
    first stage has few keys and many queries: 2 images of 800 x 1280 pixels make 16 blocks.
    """
    blocks, queries, splits = q.shape[0] * q.shape[1] * -(-k.shape[2] // 128), q.shape[2], 1
    while (
        q.is_cuda
        and blocks * splits < _MIN_BLOCKS
        and queries >= 1024 * splits
        and queries % (2 * splits) == 0
    ):
        splits *= 2
    return splits


def _spread(q: Tensor, k: Tensor, v: Tensor, splits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make more heads of fewer queries; the output is to be reshaped.

    Returns:
        q, (windows, heads * splits, N / splits, D), and k and v repeated.
    """
    if splits == 1:
        return q, k, v
    k, v = (x.unsqueeze(2).expand(-1, -1, splits, -1, -1).flatten(1, 2) for x in (k, v))
    return q.unflatten(2, (splits, -1)).flatten(1, 2), k, v


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Plain attention; PyTorch also falls back to it for a bias with a gradient, in more steps."""
    logits = q @ (k * k.shape[-1] ** -0.5).mT
    logits.unflatten(0, (-1, len(bias) if bias.dim() == 4 else 1)).add_(bias)
    return logits.softmax(dim=-1) @ v


def low_rank_biased_attention(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """Attention with a bias that is a product: softmax(q k^T / sqrt(D) + rows columns^T) v.

    The factors become more channels of queries and keys, so the bias never exists as a whole, the
    fused kernels need no mask, and its gradient comes with theirs.

    Args:
        q: Queries, (B, heads, N, D).
        k: Keys, (B, heads, M, D).
        v: Values, (B, heads, M, D).
        rows: Factor of the queries, (heads, N, R).
        columns: Factor of the keys, (M, R).

    Returns:
        (B, heads, N, D).
    """
    b, heads, _, d = q.shape
    scale = d**0.5
    # The kernels of GPUs take channels in eights, and fewer channels of values than of queries.
    more = -(d + rows.shape[-1]) % _ALIGNMENT if q.is_cuda else 0
    rows = F.pad(rows.to(q.dtype), (0, more)).expand(b, -1, -1, -1)
    columns = F.pad((columns * scale).to(q.dtype), (0, more)).expand(b, heads, -1, -1)
    values = v if q.is_cuda else F.pad(v, (0, columns.shape[-1]))
    q, k = torch.cat([q, rows], dim=-1), torch.cat([k, columns], dim=-1)
    return _fused(q, k, values, None, scale=1 / scale)[..., :d]
