"""CMT's block: local perception, lightweight attention, inverted residual FFN (section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ..ops import (
    attention,
    conv_gelu,
    fuses_gelu,
    gelu_norm_conv,
    low_rank_biased_attention,
    pad_to_multiple,
)
from .gelu import is_untouched
from .linear import Linear


class LightweightAttention(nn.Module):
    """Multi-head attention with keys and values of a map reduced k times (LMHSA, equation 3).

    Sides that k does not divide are zero-padded at the right and the bottom for the reduction, so
    that every pixel is part of a key.

    Args:
        embed_dims: Channels of the tokens, a multiple of ``num_heads``.
        num_heads: Attention heads.
        reduction: k.
    """

    def __init__(self, embed_dims: int, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.reduction = reduction
        self.q = Linear(embed_dims, embed_dims)
        self.k = Linear(embed_dims, embed_dims)
        self.v = Linear(embed_dims, embed_dims)
        self.proj = Linear(embed_dims, embed_dims)
        self.reduce = None
        if reduction > 1:
            self.reduce = nn.Sequential(
                nn.Conv2d(embed_dims, embed_dims, reduction, stride=reduction, groups=embed_dims),
                nn.BatchNorm2d(embed_dims),
            )

    def forward(self, tokens: Tensor, bias: Tensor, columns: Tensor | None) -> Tensor:
        """Attend.

        Args:
            tokens: (B, H, W, C).
            bias: The whole bias of the logits, (heads, H * W, M), or the factor of the queries.
            columns: Its factor of the keys, see :class:`PositionBias`; None for a whole bias.

        Returns:
            (B, H, W, C).
        """
        source = tokens
        if self.reduce is not None:
            x = pad_to_multiple(tokens.permute(0, 3, 1, 2), self.reduction)
            source = self.reduce(x).permute(0, 2, 3, 1)
        q = self._heads(self.q(tokens))
        k = self._heads(self.k(source))
        v = self._heads(self.v(source))
        if columns is None:
            out = attention(q, k, v, bias)
        else:
            out = low_rank_biased_attention(q, k, v, bias, columns)
        return self.proj(out.transpose(1, 2).reshape(tokens.shape))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, heads, H * W, C / heads)."""
        b, h, w, c = x.shape
        return x.reshape(b, h * w, self.num_heads, c // self.num_heads).transpose(1, 2)


class InvertedResidualFFN(nn.Module):
    """1x1 convolution, 3x3 depthwise one with a shortcut around it, and 1x1 one (equation 5).

    BatchNorm comes after the activations and after the last convolution.

    Args:
        embed_dims: Channels of input and output.
        hidden_channels: Channels between.
    """

    def __init__(self, embed_dims: int, hidden_channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(embed_dims, hidden_channels, 1)
        self.expand_norm = nn.BatchNorm2d(hidden_channels)
        self.depthwise = nn.Conv2d(
            hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels
        )
        self.depthwise_norm = nn.BatchNorm2d(hidden_channels)
        self.project = nn.Conv2d(hidden_channels, embed_dims, 1)
        self.project_norm = nn.BatchNorm2d(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        convs = (self.expand, self.depthwise, self.project)
        norms = (self.expand_norm, self.depthwise_norm, self.project_norm)
        if all(_is_as_built(conv) and fuses_gelu(x, conv.weight) for conv in convs) and all(
            is_untouched(norm, nn.BatchNorm2d) and _is_fixed(norm) for norm in norms
        ):
            return self._infer(x)
        x = _gelu_norm_conv(self.expand(x), self.expand_norm, self.depthwise, shortcut=True)
        return self.project_norm(_gelu_norm_conv(x, self.depthwise_norm, self.project))

    def _infer(self, x: Tensor) -> Tensor:
        """Compute the same with GELU in the convolutions, and in the last one the norms too."""
        x = conv_gelu(x, self.expand.weight, self.expand.bias)
        scale, shift = (v.view(1, -1, 1, 1) for v in _scale_and_shift(self.expand_norm))
        # Not in the next kernel: it is this map's padding that is zero.
        torch.addcmul(shift, x, scale, out=x)
        weight = _with_shortcut(self.depthwise.weight)
        x = conv_gelu(x, weight, self.depthwise.bias, padding=(1, 1), groups=len(weight))
        scale, shift = _scale_and_shift(self.depthwise_norm)
        weight = self.project.weight.flatten(1)
        bias = weight @ shift
        if self.project.bias is not None:
            bias = bias + self.project.bias
        out_scale, out_shift = _scale_and_shift(self.project_norm)
        weight = weight * scale * out_scale[:, None]
        return F.conv2d(x, weight[:, :, None, None], torch.addcmul(out_shift, bias, out_scale))


def _is_as_built(conv: nn.Module) -> bool:
    """Return whether it is a 1x1 convolution, or a depthwise 3x3 one that pads with zeros."""
    if not is_untouched(conv, nn.Conv2d):
        return False
    side, groups = (3, conv.in_channels) if conv.groups > 1 else (1, 1)
    return conv.padding_mode == 'zeros' and (
        (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
        == ((side, side), (1, 1), (side // 2, side // 2), (1, 1), groups)
    )


def _is_fixed(norm: nn.BatchNorm2d) -> bool:
    """Return whether a norm multiplies and adds what does not depend on the batch."""
    return norm.affine and not norm.training and norm.running_mean is not None


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return what a fixed norm multiplies by, and what it then adds, (C,) each."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def _with_shortcut(weight: Tensor) -> Tensor:
    """Return a 3x3 depthwise kernel with one more in the middle, (C, 1, 3, 3)."""
    return weight + F.pad(weight.new_ones(1, 1, 1, 1), [1] * 4)


def _gelu_norm_conv(
    x: Tensor, norm: nn.BatchNorm2d, conv: nn.Conv2d, *, shortcut: bool = False
) -> Tensor:
    """Compute conv(norm(gelu(x))), plus its own input if ``shortcut``, by one op where that fits.

    Args:
        x: (B, C, H, W).
        norm: BatchNorm, or what has been put in its place, SyncBatchNorm for one.
        conv: A convolution that :func:`mmcontnet.ops.gelu_norm_conv` takes, or what is there.
        shortcut: Whether the convolution, then a depthwise one, has a shortcut around it.

    Returns:
        (B, C', H, W).
    """
    if (
        not is_untouched(norm, nn.BatchNorm2d)
        or not _is_as_built(conv)
        or not norm.affine
        or norm.running_mean is None
        or norm.running_var is None
        or conv.bias is None
        or x.dtype not in (torch.float32, torch.float64)
        # Of a single pixel BatchNorm refuses to compute statistics, and says so.
        or x.numel() <= x.shape[1]
    ):
        x = norm(F.gelu(x))
        return conv(x).add_(x) if shortcut else conv(x)
    momentum = norm.momentum or 0.0
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            # Of all batches.
            momentum = 1 / float(norm.num_batches_tracked)
    weight = _with_shortcut(conv.weight) if shortcut else conv.weight
    return gelu_norm_conv(
        x,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        weight,
        conv.bias,
        training=norm.training,
        momentum=momentum,
        eps=norm.eps,
    )


class CMTBlock(nn.Module):
    """Local perception unit, lightweight attention and inverted residual FFN (equations 6-8).

    Args:
        embed_dims: Channels.
        num_heads: Attention heads; divides ``embed_dims``.
        reduction: Side of the square of pixels to a key.
        hidden_channels: Hidden width of the FFN.
        drop_path_rate: Stochastic depth of attention and FFN.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        reduction: int,
        hidden_channels: int,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.local = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims)
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attention = LightweightAttention(embed_dims, num_heads, reduction)
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.ffn = InvertedResidualFFN(embed_dims, hidden_channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, bias: Tensor, columns: Tensor | None) -> Tensor:
        """Compute a block.

        Args:
            x: (B, C, H, W), channels-last.
            bias: See :class:`LightweightAttention`.
            columns: See :class:`LightweightAttention`.

        Returns:
            (B, C, H, W), channels-last.
        """
        # Sums go into tensors that nothing else needs: on a CPU new memory costs as much as adding.
        x = self.local(x).add_(x).permute(0, 2, 3, 1)
        x = self.drop_path(self.attention(self.norm1(x), bias, columns)).add_(x)
        ffn = self.ffn(self.norm2(x).permute(0, 3, 1, 2))
        return self.drop_path(ffn).add_(x.permute(0, 3, 1, 2))
