"""Scaled dot-product attention over many small windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The fused CUDA kernels put windows x heads on a grid axis that holds 65,535 blocks, and fail with
# "invalid configuration argument" beyond it. ConTNet's first stage has 64 windows an image, so a
# batch of 1024 images at 224 x 224 gets there.
MAX_CUDA_BATCH = 65_535


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
    if max_batch is None and q.is_cuda:
        max_batch = MAX_CUDA_BATCH
    if bias is not None:
        # A parameter is fp32 where autocast made the queries something else.
        bias = bias.to(q.dtype)
        if q.device.type == 'cpu' and bias.requires_grad and torch.is_grad_enabled():
            return _plain_attention(q, k, v, bias)
        # The CPU's fused kernel refuses a parameter even where no gradient is recorded.
        bias = bias if torch.is_grad_enabled() else bias.detach()
        if bias.dim() == 4:
            bias = bias.repeat(len(q) // len(bias), 1, 1, 1)
        else:
            bias = bias.expand(len(q), -1, -1, -1)
    windows, heads = q.shape[:2]
    if max_batch is None or windows * heads <= max_batch:
        return F.scaled_dot_product_attention(q, k, v, bias)
    chunk = max(1, max_batch // heads)
    parts = [tensor.split(chunk) for tensor in (q, k, v, bias) if tensor is not None]
    return torch.cat([F.scaled_dot_product_attention(*p) for p in zip(*parts, strict=True)])


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Write attention out: PyTorch does so for a bias with a gradient, with more steps between."""
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
    rows = (rows * scale).to(q.dtype).expand(b, -1, -1, -1)
    columns = columns.to(q.dtype).expand(b, heads, -1, -1)
    # The fused kernels take values of the queries' width only.
    out = F.scaled_dot_product_attention(
        torch.cat([q, rows], dim=-1),
        torch.cat([k, columns], dim=-1),
        F.pad(v, (0, columns.shape[-1])),
        scale=1 / scale,
    )
    return out[..., :d]
