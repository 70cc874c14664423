"""Contextual transformer (CoT) layer, and split attention, its neighbour in SE-CoTNetD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import local_aggregation

CONTEXTS = ('full', 'linear', 'dynamic', 'static')
_KERNEL_SIZE = 3
_SHARE = 8  # channels of the values that share the weights of a local attention matrix


def _conv_norm(in_channels: int, out_channels: int, kernel_size: int, groups: int) -> nn.Sequential:
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def _squeeze_excite(
    channels: int, squeezed: int, out_channels: int, activation: type[nn.Module]
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, squeezed, 1),
        nn.BatchNorm2d(squeezed),
        activation(inplace=True),
        nn.Conv2d(squeezed, out_channels, 1),
    )


def _silu(x: Tensor) -> Tensor:
    # In place, autograd would keep a copy.
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _pixel_mean(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1), with a gradient that is not written out for every pixel."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return (x.sum((2, 3), keepdim=True, dtype=dtype) / (x.shape[2] * x.shape[3])).to(x.dtype)


class _GroupNorm(nn.GroupNorm):
    """GroupNorm whose output, and whose gradient, are contiguous.

    PyTorch's kernels for channels-last take up to ten times as long on a CPU where groups have as
    few channels as here, far longer than a copy; local aggregation takes weights in any layout.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous())


class CoTLayer(nn.Module):
    """Contextual transformer layer, the 3x3 convolution of CoTNet's bottlenecks (section 3.2).

    A 3x3 group convolution over the input gives the static context k1. From [x, k1] two 1x1
    convolutions make the local attention matrices (equation 4; normalised by a GroupNorm, with no
    softmax, as in the released network), which aggregate the values around each pixel into the
    dynamic context k2 (equation 5). Selective-kernel attention fuses the two.

    In CoTNeXt (``groups=2``) the 1x1 convolutions are grouped, the channels of x and k1 take turns
    before them, and each group of values is aggregated with its own half of the matrices.

    Args:
        channels: Of input and output; a multiple of 8, ``groups`` and ``key_groups``.
        groups: Of the 1x1 convolutions.
        key_groups: Of the 3x3 convolution.
        context: ``'full'``; or for table 5 ``'linear'`` (k1 + k2), ``'dynamic'`` (k2 alone) or
            ``'static'`` (k1 alone).
    """

    def __init__(
        self, channels: int, *, groups: int = 1, key_groups: int = 4, context: str = 'full'
    ) -> None:
        super().__init__()
        self.groups = groups
        self.context = context
        self.key = _conv_norm(channels, channels, _KERNEL_SIZE, key_groups)
        if context == 'static':
            return
        matrices = channels // _SHARE
        self.embed = nn.Sequential(
            nn.Conv2d(2 * channels, channels // 2, 1, groups=groups, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 2, matrices * _KERNEL_SIZE**2, 1, groups=groups),
            _GroupNorm(matrices, matrices * _KERNEL_SIZE**2),
        )
        self.value = _conv_norm(channels, channels, 1, groups)
        self.norm = nn.BatchNorm2d(channels)
        if context == 'full':
            self.fuse = _squeeze_excite(channels, max(channels // 2, 32), 2 * channels, nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        static = F.relu(self.key(x), inplace=True)
        if self.context == 'static':
            return static
        pair = torch.cat([x, static], dim=1)
        if self.groups > 1:
            pair = torch.stack([x, static], dim=2).flatten(1, 2)
        values, weights = self.value(x), self.embed(pair)
        parts = zip(values.chunk(self.groups, 1), weights.chunk(self.groups, 1), strict=True)
        aggregated = [local_aggregation(v, w, _KERNEL_SIZE) for v, w in parts]
        dynamic = aggregated[0] if self.groups == 1 else torch.cat(aggregated, dim=1)
        dynamic = _silu(self.norm(dynamic))
        if self.context == 'dynamic':
            return dynamic
        if self.context == 'linear':
            return static + dynamic
        logits = self.fuse(_pixel_mean(static) + _pixel_mean(dynamic)).unflatten(1, (-1, 2))
        # Softmax over a pair is a sigmoid of the difference.
        share = (logits[:, :, 0] - logits[:, :, 1]).sigmoid()
        return torch.lerp(static, dynamic, share)


class SplitAttention(nn.Module):
    """3x3 convolution whose channels are weighted by what its output holds on average.

    Split attention of radix 1, that is squeeze and excitation in the place where ResNeSt has it
    (CoTNet, section 4.1, "SE-CoTNetD").

    Args:
        channels: Of input and output.
        stride: Of the convolution.
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.attention = _squeeze_excite(channels, max(channels // 4, 32), channels, nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        x = _silu(self.conv(x))
        return x * self.attention(_pixel_mean(x)).sigmoid()
