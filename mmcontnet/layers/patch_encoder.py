"""ConTNet's patch-wise standard transformer encoder (ConTNet, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ..ops import attention, partition_patches


class AxialPositionEncoding(nn.Module):
    """Learnt 2-D position encoding of a patch: one vector a row and one a column.

    The first half of the channels tells the row, the second half the column (ConTNet, section 4.3,
    "2D learnable").

    Args:
        embed_dims: Channels of the tokens; even.
        patch_size: Side of the patch in pixels of the map.
    """

    def __init__(self, embed_dims: int, patch_size: int) -> None:
        super().__init__()
        if embed_dims % 2:
            raise ValueError(f'a 2-D position encoding needs even embed_dims, got {embed_dims}')
        self.patch_size = patch_size
        self.row = nn.Parameter(torch.empty(patch_size, embed_dims // 2))
        self.column = nn.Parameter(torch.empty(patch_size, embed_dims // 2))
        nn.init.trunc_normal_(self.row, std=0.02)
        nn.init.trunc_normal_(self.column, std=0.02)

    def forward(self, order: int) -> Tensor:
        """Return the encoding, (1, patch_size ** 2, C), in the order of ``partition_patches``."""
        p = self.patch_size
        row = self.row[:, None].expand(p, p, -1)
        column = self.column[None].expand(p, p, -1)
        grid = torch.cat([row, column], dim=-1)
        return partition_patches(grid.permute(2, 0, 1)[None], p, order)


class PatchEncoder(nn.Module):
    """Transformer encoder within each patch: attention and FFN, post-norm (equations 4-8).

    The position encoding is added to the tokens before the shortcut branches off, so it is part of
    what the first residual carries.

    Args:
        embed_dims: Channels of the tokens.
        num_heads: Attention heads; divides ``embed_dims``.
        feedforward_channels: Hidden width of the FFN.
        patch_size: Side of a patch in pixels of the map.
        order: Token order within a patch, see :func:`mmcontnet.ops.partition_patches`.
        drop_rate: Dropout after the attention's and the FFN's linear layers.
        drop_path_rate: Probability of dropping a residual branch of an image.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        patch_size: int,
        *,
        order: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims {embed_dims} is no multiple of num_heads {num_heads}')
        self.num_heads = num_heads
        self.patch_size = patch_size
        self.order = order or patch_size
        self.position = AxialPositionEncoding(embed_dims, patch_size)
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.norm1 = nn.LayerNorm(embed_dims)
        self.fc1 = nn.Linear(embed_dims, feedforward_channels)
        self.fc2 = nn.Linear(feedforward_channels, embed_dims)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.drop = nn.Dropout(drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode patches.

        Args:
            tokens: (B, patches * patch_size ** 2, C), in the order of ``partition_patches``.

        Returns:
            The same shape.
        """
        b, n, c = tokens.shape
        length = self.patch_size**2
        position = self.position(self.order)
        tokens = (tokens.reshape(b, n // length, length, c) + position).reshape(b, n, c)
        tokens = self.norm1(tokens + self.drop_path(self._attend(tokens)))
        hidden = self.drop(F.gelu(self.fc1(tokens)))
        return self.norm2(tokens + self.drop_path(self.drop(self.fc2(hidden))))

    def _attend(self, tokens: Tensor) -> Tensor:
        b, n, c = tokens.shape
        length = self.patch_size**2
        heads = (self.num_heads, c // self.num_heads)
        qkv = self.qkv(tokens).reshape(b * n // length, length, 3, *heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        return self.drop(self.proj(out))
