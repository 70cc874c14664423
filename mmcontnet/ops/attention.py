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
        bias: Added to the logits of every window, (heads, N, M).
        max_batch: Largest windows x heads for one kernel call; more are computed in chunks.
            None decides by device: chunks on CUDA only.

    Returns:
        (windows, heads, N, D).
    """
    if max_batch is None and q.is_cuda:
        max_batch = MAX_CUDA_BATCH
    if bias is not None:
        # A parameter is fp32 where autocast made the queries something else. Four dimensions, as
        # the fused kernels ask for.
        bias = bias.to(q.dtype)[None]
    windows, heads = q.shape[:2]
    if max_batch is None or windows * heads <= max_batch:
        return F.scaled_dot_product_attention(q, k, v, bias)
    chunk = max(1, max_batch // heads)
    parts = zip(q.split(chunk), k.split(chunk), v.split(chunk), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part, bias) for part in parts])
