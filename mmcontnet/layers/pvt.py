"""ACmix with the spatial-reduction attention of PVT, and PVT's block and embedding around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ..ops import attention, pad_to_multiple
from .acmix import ConvolutionPath, PathSum

_EPS = 1e-6


class SpatialReductionACmix(nn.Module):
    """ACmix with keys and values of a map reduced R times (Wang et al. 2021, section 3.3).

    The convolution path needs them for every pixel, and takes those of the pixel's square, so that
    nothing is projected twice. As in the released Swin-ACmix, attention's output is projected and
    the convolution's is not.

    Sides that R does not divide are zero-padded at the right and the bottom for the reduction, so
    that every pixel is part of a key.

    Args:
        embed_dims: Channels of the tokens.
        num_heads: Divides ``embed_dims``.
        reduction: R.
        combine: See :class:`PathSum`.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, reduction: int, *, combine: str = 'rates'
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'num_heads must divide the {embed_dims} channels, got {num_heads}')
        self.num_heads = num_heads
        self.reduction = reduction
        self.q = nn.Linear(embed_dims, embed_dims)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.reduce = self.norm = None
        if reduction > 1:
            self.reduce = nn.Conv2d(embed_dims, embed_dims, reduction, stride=reduction)
            self.norm = nn.LayerNorm(embed_dims, eps=_EPS)
        self.convolution = ConvolutionPath(3 * num_heads, embed_dims // num_heads, num_heads)
        self.sum = PathSum(combine)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        h, w = tokens.shape[1:3]
        q = self.q(tokens)
        if self.reduce is None or self.norm is None:
            kv = kv_map = self.kv(tokens)
        else:
            x = pad_to_multiple(tokens.permute(0, 3, 1, 2), self.reduction)
            kv = self.kv(self.norm(self.reduce(x).permute(0, 2, 3, 1)))
            kv_map = F.interpolate(kv.permute(0, 3, 1, 2), scale_factor=self.reduction)
            kv_map = kv_map[..., :h, :w].permute(0, 2, 3, 1)
        heads = (self._heads(x) for x in (q, *kv.chunk(2, dim=3)))
        attended = self.proj(attention(*heads).transpose(1, 2).reshape(tokens.shape))
        features = torch.cat([q, kv_map], dim=3).permute(0, 3, 1, 2)
        return self.sum(attended, self.convolution(features).permute(0, 2, 3, 1))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, heads, H * W, C / heads)."""
        return x.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class PVTBlock(nn.Module):
    """PVT's encoder layer with ACmix: attention and FFN, each after a LayerNorm.

    Args:
        embed_dims: Channels.
        num_heads: Divides ``embed_dims``.
        reduction: See :class:`SpatialReductionACmix`.
        hidden_channels: Hidden width of the FFN.
        combine: See :class:`PathSum`.
        drop_path_rate: Stochastic depth of attention and FFN.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        reduction: int,
        hidden_channels: int,
        *,
        combine: str = 'rates',
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=_EPS)
        self.acmix = SpatialReductionACmix(embed_dims, num_heads, reduction, combine=combine)
        self.norm2 = nn.LayerNorm(embed_dims, eps=_EPS)
        self.ffn = nn.Sequential(
            nn.Linear(embed_dims, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, embed_dims),
        )
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; channels-last memory is fastest."""
        x = x.permute(0, 2, 3, 1)
        x = x + self.drop_path(self.acmix(self.norm1(x)))
        x = x + self.drop_path(self.ffn(self.norm2(x)))
        return x.permute(0, 3, 1, 2)


class PositionedPatchEmbedding(nn.Module):
    """Patches as tokens, LayerNorm, and learnt encodings of their places (PVT, section 3.2).

    Maps of another size than the native one have the encodings resized bilinearly. Sides that the
    patches do not divide are zero-padded at the right and the bottom.

    Args:
        in_channels: Channels of the input.
        embed_dims: Channels of the tokens.
        patch_size: Side of a patch in pixels of the input.
        side: Side of the native map of tokens.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int, side: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.conv = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(embed_dims, eps=_EPS)
        self.position = nn.Parameter(torch.zeros(1, embed_dims, side, side))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, C, ceil(H / patch_size), ceil(W / patch_size))."""
        x = self.conv(pad_to_multiple(x, self.patch_size))
        position: Tensor = self.position
        if position.shape[2:] != x.shape[2:]:
            position = F.interpolate(position, x.shape[2:], mode='bilinear')
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + position
