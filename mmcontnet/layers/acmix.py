"""ACmix: attention and convolution from the same projections (arXiv:2111.14556, section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import check_choice
from ..ops import sliding_attention
from .inline import can_inline, can_inline_conv

#: Ways to add up the paths (table 6), F = alpha * attention + beta * convolution.
COMBINATIONS = ('rates', 'complement', 'attention_rate', 'sum')
#: Starts of the shift convolutions (table 7).
SHIFT_INITS = ('shift', 'fixed', 'random')
_KERNEL_SIZE = 3


class ConvolutionPath(nn.Module):
    """Convolution made of the features that attention projects (sections 4.2 and 4.3, figure 3c).

    A linear map over the groups of feature maps, the same for every channel of a head, makes 9 maps
    of each; a grouped 3x3 convolution, at first the one that shifts each of the 9 in a direction of
    its own, adds them up. Attention's outputs come head by head, this path's channel by channel;
    the released networks add them as they are.

    Args:
        groups: Groups of feature maps: 3 for each head, where queries, keys and values have the
            same width.
        head_channels: Maps in each group.
        num_heads: Outputs for each channel of a head.
        stride: Of the 3x3 convolution.
        bias: Whether the linear map has one (in Swin).
    """

    def __init__(
        self,
        groups: int,
        head_channels: int,
        num_heads: int,
        *,
        stride: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        taps = _KERNEL_SIZE**2
        self.groups = groups
        self.num_heads = num_heads
        self.mix = nn.Linear(groups, taps, bias=bias)
        self.shift = nn.Conv2d(
            taps * head_channels,
            num_heads * head_channels,
            _KERNEL_SIZE,
            stride=stride,
            padding=_KERNEL_SIZE // 2,
            groups=head_channels,
            bias=False,
        )
        self.init_shift('shift')

    def init_shift(self, start: str) -> None:
        """Start the grouped convolution.

        Args:
            start: One of ``SHIFT_INITS``: from shifts; from shifts, and without training; or from
                He's normal distribution, as in the released ResNet.

        Raises:
            ValueError: For another ``start``.
        """
        check_choice('shift_init', start, SHIFT_INITS)
        if start == 'random':
            nn.init.kaiming_normal_(self.shift.weight, mode='fan_out', nonlinearity='relu')
        else:
            shifts = torch.eye(_KERNEL_SIZE**2).unflatten(1, (_KERNEL_SIZE, _KERNEL_SIZE))
            with torch.no_grad():
                self.shift.weight.copy_(shifts)
        if start == 'fixed':
            self.shift.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, groups * head_channels, H, W) -> (B, head_channels * num_heads, H', W')."""
        # In channels-last memory with the channels of a head outermost, each linear map's input is
        # dense.
        tokens = x.permute(0, 2, 3, 1).unflatten(3, (self.groups, -1))
        if not self._can_compose():
            return self.shift(self.mix_groups(tokens).flatten(3).permute(0, 3, 1, 2))
        conv = self.shift
        weight = torch.einsum('otij,tg->ogij', conv.weight, self.mix.weight)
        maps = tokens.mT.flatten(3).permute(0, 3, 1, 2)
        return F.conv2d(maps, weight, None, conv.stride, conv.padding, groups=conv.groups)

    def mix_groups(self, tokens: Tensor) -> Tensor:
        """Apply the linear map, (..., groups, head_channels) -> (..., head_channels, 9)."""
        if tokens.device.type != 'cpu' or not can_inline(self.mix, nn.Linear):
            return self.mix(tokens.mT)
        # One small product per token, (9, groups) @ (groups, head_channels). On a CPU that is 2 to
        # 4 times as fast as one product for all, which needs the groups innermost.
        weight, bias = self.mix.weight, self.mix.bias
        groups = tokens.flatten(0, -3)
        weight = weight.expand(len(groups), -1, -1)
        mixed = weight @ groups if bias is None else torch.baddbmm(bias[:, None], weight, groups)
        return mixed.unflatten(0, tokens.shape[:-2]).mT

    def _can_compose(self) -> bool:
        """Return whether one convolution of the groups themselves is possible, for no more MACs.

        It is not with a bias, because the convolution pads with zeros after the linear map.
        """
        taps, groups, heads = _KERNEL_SIZE**2, self.groups, self.num_heads
        return (
            groups * heads <= groups + taps * heads
            and can_inline(self.mix, nn.Linear)
            and self.mix.bias is None
            and can_inline_conv(self.shift)
            and self.shift.bias is None
            # A group of channels is what the linear map makes of one channel of a head.
            and self.shift.weight.shape[1] == taps
        )


class PathSum(nn.Module):
    """Add attention and convolution with learnt rates (equation 13).

    Args:
        combine: One of ``COMBINATIONS``: both rates learnt; only attention's, the other making it
            up to 1; only attention's, the other being 1; none, both being 1.

    Raises:
        ValueError: For another ``combine``.
    """

    def __init__(self, combine: str = 'rates') -> None:
        super().__init__()
        check_choice('combine', combine, COMBINATIONS)
        self.combine = combine
        if combine != 'sum':
            self.rate_attention = nn.Parameter(torch.full((1,), 0.5))
        if combine == 'rates':
            self.rate_convolution = nn.Parameter(torch.full((1,), 0.5))

    @property
    def rates(self) -> tuple[Tensor | float, Tensor | float]:
        """The rates of attention and of convolution, alpha and beta."""
        if self.combine == 'sum':
            return 1.0, 1.0
        alpha = self.rate_attention
        if self.combine == 'rates':
            return alpha, self.rate_convolution
        return alpha, 1 - alpha if self.combine == 'complement' else 1.0

    def forward(self, attention: Tensor, convolution: Tensor) -> Tensor:
        """Two maps or sets of tokens of the same shape -> that shape."""
        alpha, beta = self.rates
        # Under autocast rates are fp32, and so is what they multiply: good for their gradients,
        # which are sums over whole maps, but twice the memory for the layers that follow.
        return (alpha * attention + beta * convolution).to(attention.dtype)


class SlidingACmix(nn.Module):
    """ACmix with attention to a window that slides over the map, for the ResNet host (figure 2c).

    Places in the image, a linear map of coordinates from -1 to 1, set keys apart: the authors'
    logits are q (k_j + p_i - p_j), where p_i is the same for all pixels j of a window, so softmax
    cancels it.

    Args:
        channels: Of input and output.
        num_heads: Divides ``channels``.
        kernel_size: Side of the attention's window, odd.
        stride: Of both paths.
        combine: See :class:`PathSum`.

    Raises:
        ValueError: If ``num_heads`` does not divide ``channels``, or for another ``combine``.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 4,
        kernel_size: int = 7,
        stride: int = 1,
        combine: str = 'rates',
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f'num_heads must divide the {channels} channels, got {num_heads}')
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.stride = stride
        head_channels = channels // num_heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.position = nn.Conv2d(2, head_channels, 1)
        self.convolution = ConvolutionPath(3 * num_heads, head_channels, num_heads, stride=stride)
        self.sum = PathSum(combine)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        qkv = self.qkv(x)
        q, k, v = qkv.unflatten(1, (3, self.num_heads, -1)).unbind(1)
        k = k - self.position(_coordinates(x))
        attention = sliding_attention(q, k, v, self.kernel_size, stride=self.stride)
        return self.sum(attention.flatten(1, 2), self.convolution(qkv))


def _coordinates(x: Tensor) -> Tensor:
    """Columns and rows from -1 to 1, (2, H, W)."""
    rows, cols = (torch.linspace(-1, 1, n, dtype=x.dtype, device=x.device) for n in x.shape[2:])
    return torch.stack(torch.meshgrid(cols, rows, indexing='xy'))
