"""ACmix with the patchwise attention of SAN, and SAN's block around it."""

from __future__ import annotations

import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ..ops import local_aggregation, reflect_pad
from .acmix import ConvolutionPath, PathSum

_QUERY_REDUCTION = 16  # of the block's channels to those of queries and keys
_VALUE_REDUCTION = 4
_SHARE = 8  # channels of the values that share weights


class PatchwiseACmix(nn.Module):
    """ACmix with patchwise attention (ACmix, equation 18; Zhao et al., CVPR 2020, section 3.2).

    The weights of all pixels of a window are computed at once, from the query and the keys of the
    whole window: BatchNorm and ReLU, a linear map to one channel for each set of weights, both
    again, and a linear map to the weights, which no softmax follows. Pixels are told apart by where
    they are in this concatenation, so they need no position encoding. Windows that reach beyond the
    map see it reflected.

    Queries and keys have a quarter of the values' channels. For the convolution path they are one
    group of maps each, and the values are four.

    Args:
        channels: Of the input, a multiple of 32; the output has a quarter of them.
        kernel_size: Side of attention's window in pixels of the map, odd.
        combine: See :class:`PathSum`.

    Raises:
        ValueError: If 32 does not divide ``channels``.
    """

    def __init__(self, channels: int, *, kernel_size: int = 7, combine: str = 'rates') -> None:
        super().__init__()
        if channels % (_VALUE_REDUCTION * _SHARE):
            raise ValueError(f'channels must be a multiple of 32, got {channels}')
        self.kernel_size = kernel_size
        width, values = channels // _QUERY_REDUCTION, channels // _VALUE_REDUCTION
        self.widths = (width, width, values)
        sets, taps = values // _SHARE, kernel_size**2
        self.qkv = nn.Conv2d(channels, sum(self.widths), 1)
        # Together the first linear map of query and keys, without concatenating them.
        self.query, self.keys = (
            nn.Sequential(
                nn.BatchNorm2d(maps), nn.ReLU(inplace=True), nn.Conv2d(maps, sets, 1, bias=False)
            )
            for maps in (width, width * taps)
        )
        self.weight = nn.Sequential(
            nn.BatchNorm2d(sets), nn.ReLU(inplace=True), nn.Conv2d(sets, sets * taps, 1)
        )
        self.convolution = ConvolutionPath(sum(self.widths) // width, width, values // width)
        self.sum = PathSum(combine)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C / 4, H, W)."""
        qkv = self.qkv(x)
        q, k, v = qkv.split(self.widths, dim=1)
        margin = self.kernel_size // 2
        # In channels-last memory, pixels of a window outside: runs of channels are copied.
        keys = reflect_pad(k, margin).permute(0, 2, 3, 1)
        keys = keys.unfold(1, self.kernel_size, 1).unfold(2, self.kernel_size, 1)
        keys = keys.permute(0, 1, 2, 4, 5, 3).flatten(3).permute(0, 3, 1, 2)
        weight = self.weight(self.query(q) + self.keys(keys))
        attention = local_aggregation(reflect_pad(v, margin), weight, self.kernel_size)
        return self.sum(attention, self.convolution(qkv))


class SANBlock(nn.Module):
    """SAN's bottleneck: BatchNorm and ReLU, attention, both again, a 1x1 convolution, a shortcut.

    Args:
        channels: Of input and output, a multiple of 32.
        kernel_size: See :class:`PatchwiseACmix`.
        combine: See :class:`PatchwiseACmix`.
        drop_path_rate: Stochastic depth.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        combine: str = 'rates',
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        values = channels // _VALUE_REDUCTION
        self.norm1 = nn.BatchNorm2d(channels)
        self.acmix = PatchwiseACmix(channels, kernel_size=kernel_size, combine=combine)
        self.norm2 = nn.BatchNorm2d(values)
        self.conv = nn.Conv2d(values, channels, 1)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        out = self.acmix(F.relu(self.norm1(x), inplace=True))
        out = self.conv(F.relu(self.norm2(out), inplace=True))
        return self.drop_path(out).add_(x)
