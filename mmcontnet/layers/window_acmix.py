"""ACmix with attention within windows, for the Swin host (ACmix, section 4.5)."""

from __future__ import annotations

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ..ops import attention, pad_to_multiple, window_partition
from .acmix import ConvolutionPath, PathSum
from .gelu import apply_gelu
from .position import RelativePositionBias

# Swin's -100 makes weights of 4e-44, denormal numbers, on which CPUs are slow. These are 0.
_MASKED = -1000.0


class WindowConvolutionPath(ConvolutionPath):
    """:class:`ConvolutionPath` of features that come window by window."""

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """Compute the path.

        Args:
            x: (B, rows of windows, columns of windows, side, side, groups, head_channels).
            inside: 0 for pixels that are padding and 1 for others, (1, H, W, 1); None: no padding.

        Returns:
            (B, head_channels * num_heads, H, W).
        """
        b, rows, columns, side = x.shape[:4]
        # What leaves the windows is the mixed maps: 9 for each channel, however many heads.
        mixed = self.mix_groups(x).transpose(2, 3)
        channels = mixed.shape[5] * mixed.shape[6]  # not -1, which no batch of 0 images allows
        mixed = mixed.reshape(b, rows * side, columns * side, channels)
        if inside is not None:
            mixed = mixed * inside.to(mixed.dtype)
        return self.shift(mixed.permute(0, 3, 1, 2))


class WindowACmix(nn.Module):
    """Attention within windows and a convolution of the whole map.

    As in the released network, attention's output is projected and the convolution's is not.

    Args:
        embed_dims: Channels of input and output.
        num_heads: Divides ``embed_dims``.
        window_size: Side of a window in pixels of the map.
        combine: See :class:`PathSum`.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, window_size: int = 7, combine: str = 'rates'
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'num_heads must divide embed_dims {embed_dims}, got {num_heads}')
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.position_bias = RelativePositionBias(num_heads, window_size, window_size)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.convolution = WindowConvolutionPath(
            3 * num_heads, embed_dims // num_heads, num_heads, bias=True
        )
        self.sum = PathSum(combine)

    def forward(self, x: Tensor, mask: Tensor | None, inside: Tensor | None) -> Tensor:
        """Compute both paths.

        Args:
            x: (B, H, W, C), whose sides are multiples of the window's.
            mask: Added to attention's logits, (windows, N, N) with N pixels in a window.
            inside: 0 for pixels that are padding and 1 for others, (1, H, W, 1); None: no padding.
                Attention takes padding as what it is, zeros with a bias. To the convolution it is
                what lies beyond the border of a map.

        Returns:
            (B, H, W, C).
        """
        b, h, w, c = x.shape
        side = self.window_size
        windows = (b, h // side, w // side, side, side)
        # In windows from here on: queries, keys and values are then views of what `qkv` makes.
        tokens = window_partition(x.permute(0, 3, 1, 2), side)
        heads = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1))
        bias = self.position_bias()
        if mask is not None:
            bias = bias + mask[:, None]
        q, k, v = heads.reshape(-1, side**2, *heads.shape[2:]).permute(2, 0, 3, 1, 4)
        attended = attention(q, k, v, bias).transpose(1, 2).reshape(tokens.shape)

        features = heads.flatten(2, 3).unflatten(1, windows[1:])
        convolved = self.convolution(features, inside).permute(0, 2, 3, 1)
        projected = self.proj(attended).reshape(*windows, c).transpose(2, 3)
        return self.sum(projected, convolved.reshape(projected.shape)).reshape(x.shape)


def shifts(size: tuple[int, int], window_size: int) -> tuple[int, int]:
    """Rows and columns that windows are shifted by, half a window where there is more than one."""
    rows, columns = (window_size // 2 if side > window_size else 0 for side in size)
    return rows, columns


def shift_mask(x: Tensor, window_size: int) -> Tensor | None:
    """Mask what a cyclic shift puts side by side that is not so in the map.

    Args:
        x: The map, (B, C, H, W), before it is padded to whole windows.
        window_size: Side of a window in pixels of the map.

    Returns:
        What is added to the logits of a window's pixels, (windows, N, N) of 0 and -1000; None where
        nothing is shifted.
    """
    size = (x.shape[2], x.shape[3])
    if shifts(size, window_size) == (0, 0):
        return None
    labels = []
    for side, shift in zip(size, shifts(size, window_size), strict=True):
        padded = side + -side % window_size
        # The last window of a row or column has parts from both ends.
        labels.append(torch.arange(padded, device=x.device) >= padded - shift)
    regions = 2 * labels[0][:, None] + labels[1].int()
    tokens = window_partition(regions[None, None], window_size).view(-1, window_size**2)
    differ = tokens[:, :, None] != tokens[:, None]
    return torch.zeros_like(differ, dtype=x.dtype).masked_fill(differ, _MASKED)


class SwinACmixBlock(nn.Module):
    """Swin's block, LayerNorm before each part, with ACmix in the place of window attention.

    Args:
        embed_dims: Channels.
        num_heads: Attention heads; divides ``embed_dims``.
        window_size: Side of a window in pixels of the map.
        shifted: Whether windows lie half a window to the right and below.
        drop_path_rate: Stochastic depth of ACmix and FFN.
        combine: See :class:`PathSum`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        shifted: bool,
        drop_path_rate: float = 0.0,
        combine: str = 'rates',
    ) -> None:
        super().__init__()
        self.shifted = shifted
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(embed_dims)
        self.acmix = WindowACmix(embed_dims, num_heads, window_size, combine)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.fc1 = nn.Linear(embed_dims, 4 * embed_dims)
        self.fc2 = nn.Linear(4 * embed_dims, embed_dims)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Compute a block.

        Args:
            x: (B, C, H, W), channels-last.
            mask: :func:`shift_mask` of the map.

        Returns:
            (B, C, H, W), channels-last.
        """
        x = x.permute(0, 2, 3, 1)
        x = x + self.drop_path(self._mix(self.norm1(x), mask if self.shifted else None))
        x = x + self.drop_path(self.fc2(apply_gelu(self.fc1, self.norm2(x))))
        return x.permute(0, 3, 1, 2)

    def _mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pad, shift, mix, and undo both, (B, H, W, C) -> the same shape."""
        h, w = x.shape[1:3]
        side = self.window_size
        rows, columns = shifts((h, w), side) if self.shifted else (0, 0)
        inside = None
        if h % side or w % side:
            x = pad_to_multiple(x.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
            inside = pad_to_multiple(x.new_ones(1, 1, h, w), side).permute(0, 2, 3, 1)
        if rows or columns:
            x = x.roll((-rows, -columns), (1, 2))
            inside = inside if inside is None else inside.roll((-rows, -columns), (1, 2))
        x = self.acmix(x, mask, inside)
        if rows or columns:
            x = x.roll((rows, columns), (1, 2))
        return x[:, :h, :w]
