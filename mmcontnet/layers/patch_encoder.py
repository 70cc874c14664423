"""ConTNet's patch-wise standard transformer encoder (ConTNet, section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ..ops import attention, pad_to_multiple, window_partition
from .gelu import apply_gelu
from .position import AxialPositionEncoding, RelativePositionBias, SequencePositionEncoding

_ENCODINGS = {'1d': SequencePositionEncoding, '2d': AxialPositionEncoding}
POS_ENCODINGS = ('none', *_ENCODINGS, 'relative')


class PatchEncoder(nn.Module):
    """Transformer encoder within each patch: attention and FFN (equations 4-8).

    Position encodings are added to the tokens before the shortcut branches off, so the first
    residual carries them, too. The relative position bias is added to the attention logits.

    Args:
        embed_dims: Channels of the tokens.
        num_heads: Attention heads; divides ``embed_dims``.
        feedforward_channels: Hidden width of the FFN.
        patch_size: Side of a patch in pixels of the map.
        tile: Side of the larger patches that the map was cut into, a multiple of ``patch_size``;
            None is ``patch_size``. A block with patches of 7 and 14 cuts its map once, by 14.
        order: Tokens of a tile come in sub-patches of this side, see
            :func:`mmcontnet.ops.window_partition`; None is ``patch_size``.
        pos_encoding: One of ``POS_ENCODINGS`` (table 8).
        map_size: None gives every patch the same encoding. Otherwise one encoding covers a whole
            map of this side in pixels, and is resized (bicubic) to the size of the input.
        pre_norm: Normalise the inputs of attention and FFN, not the sums behind them.
        qkv_bias: Add a bias to queries, keys and values.
        drop_rate: Dropout after the attention's and the FFN's linear layers.
        drop_path_rate: Probability of dropping a residual branch of an image.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        patch_size: int,
        *,
        tile: int | None = None,
        order: int | None = None,
        pos_encoding: str = '2d',
        map_size: int | None = None,
        pre_norm: bool = False,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims {embed_dims} is no multiple of num_heads {num_heads}')
        self.num_heads = num_heads
        self.patch_size = patch_size
        self.tile = tile or patch_size
        self.order = order or patch_size
        self.map_size = map_size
        self.pre_norm = pre_norm
        self.position = self.position_bias = None
        if pos_encoding in _ENCODINGS:
            self.position = _ENCODINGS[pos_encoding](embed_dims, map_size or patch_size)
        elif pos_encoding == 'relative':
            self.position_bias = RelativePositionBias(num_heads, patch_size, self.order)
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.norm1 = nn.LayerNorm(embed_dims)
        self.fc1 = nn.Linear(embed_dims, feedforward_channels)
        self.fc2 = nn.Linear(feedforward_channels, embed_dims)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.drop = nn.Dropout(drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Encode patches.

        Args:
            tokens: (B, tiles * tile ** 2, C), in the order of ``window_partition``.
            size: (H, W) of the map in pixels, before it was padded to a multiple of ``tile``.

        Returns:
            The same shape.
        """
        if self.position is not None:
            position = self._arrange(self.position(), size)
            tokens = (tokens.unflatten(1, (-1, position.shape[1])) + position).flatten(1, 2)
        if self.pre_norm:
            tokens = tokens + self.drop_path(self._attend(self.norm1(tokens)))
            return tokens + self.drop_path(self._feed_forward(self.norm2(tokens)))
        tokens = self.norm1(tokens + self.drop_path(self._attend(tokens)))
        return self.norm2(tokens + self.drop_path(self._feed_forward(tokens)))

    def _arrange(self, grid: Tensor, size: tuple[int, int]) -> Tensor:
        """Put an encoding (1, C, side, side) into the order of a patch's or a map's tokens."""
        if self.map_size is None:
            return window_partition(grid, self.patch_size, self.order)
        if size != (self.map_size, self.map_size):
            grid = F.interpolate(grid, size, mode='bicubic', align_corners=False)
        return window_partition(pad_to_multiple(grid, self.tile), self.tile, self.order)

    def _attend(self, tokens: Tensor) -> Tensor:
        b, n, c = tokens.shape
        length = self.patch_size**2
        heads = (self.num_heads, c // self.num_heads)
        qkv = self.qkv(tokens).reshape(b * n // length, length, 3, *heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = None if self.position_bias is None else self.position_bias()
        out = attention(q, k, v, bias).transpose(1, 2).reshape(b, n, c)
        return self.drop(self.proj(out))

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(apply_gelu(self.fc1, tokens))))
