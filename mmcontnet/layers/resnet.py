"""Parts of ResNet that CoTNet and ResNet-ACmix share."""

from __future__ import annotations

import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ..ops import subsample


class ResNetStem(nn.Module):
    """7x7 stride-2 convolution, BatchNorm, ReLU and max-pool; or ResNet-D's three 3x3 convolutions.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the stem.
        deep: Three convolutions, and no max-pool: the first stage strides itself.
    """

    def __init__(self, in_channels: int, out_channels: int, deep: bool) -> None:
        super().__init__()
        self.deep = deep
        half = out_channels // 2
        widths = (in_channels, half, half, out_channels) if deep else (in_channels, out_channels)
        size = 3 if deep else 7
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, size, stride=1 if i else 2, padding=size // 2, bias=False)
            for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / s), ceil(W / s)), s = 2 or 4."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)), inplace=True)
        return x if self.deep else F.max_pool2d(x, 3, stride=2, padding=1)


class Bottleneck(nn.Module):
    """ResNet's bottleneck with any layer in the place of its 3x3 convolution.

    Args:
        in_channels: Channels of the input.
        mid_channels: Channels of the layer.
        out_channels: Channels of the output.
        layer: With its norm and activation.
        before: Applied to the layer's input.
        after: Applied to the layer's output.
        stride: Stride of the block. One of ``before``, ``layer`` and ``after`` must have it.
        pool_shortcut: Average pixels in the shortcut instead of skipping them (ResNet-D).
        drop_path_rate: Stochastic depth.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        layer: nn.Module,
        *,
        before: nn.Module | None = None,
        after: nn.Module | None = None,
        stride: int = 1,
        pool_shortcut: bool = False,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(mid_channels)
        self.before = before
        self.layer = layer
        self.after = after
        self.conv3 = nn.Conv2d(mid_channels, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.shortcut = None
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.stride = stride
        self.pool_shortcut = pool_shortcut
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        if self.before is not None:
            out = self.before(out)
        out = self.layer(out)
        if self.after is not None:
            out = self.after(out)
        out = self.drop_path(self.norm3(self.conv3(out)))
        if self.shortcut is not None:
            x = self.shortcut(subsample(x, self.stride, self.pool_shortcut))
        # In place: neither a norm nor stochastic depth keeps its output for backward.
        return F.relu(out.add_(x), inplace=True)
