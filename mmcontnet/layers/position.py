"""ConTNet's position encodings and its relative position bias (ConTNet, section 4.3, table 8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import window_partition


class AxialPositionEncoding(nn.Module):
    """Encoding of a square by one vector a row and one a column (table 8: "2D learnable").

    The first half of the channels tells the row, the second half the column.

    Args:
        embed_dims: Channels of the tokens; even.
        side: Side of the square in pixels of the map.

    Raises:
        ValueError: If ``embed_dims`` is odd.
    """

    def __init__(self, embed_dims: int, side: int) -> None:
        super().__init__()
        if embed_dims % 2:
            raise ValueError(f'a 2-D position encoding needs even embed_dims, got {embed_dims}')
        self.side = side
        self.row = nn.Parameter(torch.empty(side, embed_dims // 2))
        self.column = nn.Parameter(torch.empty(side, embed_dims // 2))
        nn.init.trunc_normal_(self.row, std=0.02)
        nn.init.trunc_normal_(self.column, std=0.02)

    def forward(self) -> Tensor:
        """Return the encoding as a map, (1, C, side, side)."""
        row = self.row.T[:, :, None].expand(-1, -1, self.side)
        column = self.column.T[:, None, :].expand(-1, self.side, -1)
        return torch.cat([row, column])[None]


class SequencePositionEncoding(nn.Module):
    """Encoding of a square by one vector a pixel (table 8: "1D learnable").

    Args:
        embed_dims: Channels of the tokens.
        side: Side of the square in pixels of the map.
    """

    def __init__(self, embed_dims: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.sequence = nn.Parameter(torch.empty(side * side, embed_dims))
        nn.init.trunc_normal_(self.sequence, std=0.02)

    def forward(self) -> Tensor:
        """Return the encoding as a map, (1, C, side, side)."""
        return self.sequence.T.reshape(1, -1, self.side, self.side)


class RelativePositionBias(nn.Module):
    """Learnt term of attention's logits for each offset between two pixels of a patch, and head.

    Args:
        num_heads: Attention heads.
        patch_size: Side of the patch in pixels of the map.
        order: Token order within the patch, see :func:`mmcontnet.ops.window_partition`.
    """

    index: Tensor

    def __init__(self, num_heads: int, patch_size: int, order: int) -> None:
        super().__init__()
        offsets = 2 * patch_size - 1
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets**2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        axis = torch.arange(patch_size, dtype=torch.float32)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing='ij'))[None]
        row, column = window_partition(grid, patch_size, order)[0].long().unbind(1)
        vertical = row[:, None] - row + patch_size - 1
        horizontal = column[:, None] - column + patch_size - 1
        self.register_buffer('index', vertical * offsets + horizontal, persistent=False)

    def forward(self) -> Tensor:
        """Return the bias, (num_heads, P * P, P * P), query by key, in the tokens' order."""
        return self.relative_position_bias_table[self.index].permute(2, 0, 1)
