"""CMT's block: local perception, lightweight attention, inverted residual FFN (section 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ..ops import (
    attention,
    low_rank_biased_attention,
    norm_conv,
    pad_to_multiple,
    runs_eagerly,
)
from .gelu import apply_gelu
from .inline import can_inline, can_inline_conv


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
        self.q = nn.Linear(embed_dims, embed_dims)
        self.k = nn.Linear(embed_dims, embed_dims)
        self.v = nn.Linear(embed_dims, embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
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
        # For a single pixel call BatchNorm, which raises.
        if self._can_inline(x) and x.numel() > x.shape[1]:
            center = F.pad(x.new_ones(1, 1, 1, 1, dtype=torch.float32), [1] * 4)
            depthwise = self.depthwise.weight + center, self.depthwise.bias  # with the shortcut
            conv, norm = self.project, self.project_norm
            if torch.is_grad_enabled():
                x = _norm_conv(self.expand(x), self.expand_norm, *depthwise, gelu='input')
                return norm(
                    _norm_conv(x, self.depthwise_norm, conv.weight, conv.bias, gelu='input')
                )
            x = apply_gelu(self.expand, x)
            x = _norm_conv(x, self.expand_norm, *depthwise, gelu='output')
            if norm.training or not _is_plain_norm(norm):
                return norm(_norm_conv(x, self.depthwise_norm, conv.weight, conv.bias))
            # The last norm, too, is part of the kernel.
            return _norm_conv(x, self.depthwise_norm, *_fold(conv, norm))
        x = self.expand_norm(apply_gelu(self.expand, x))
        x = F.gelu(self.depthwise(x).add_(x))  # x is the shortcut
        return self.project_norm(self.project(self.depthwise_norm(x)))

    def _can_inline(self, x: Tensor) -> bool:
        """Return whether :func:`mmcontnet.ops.norm_conv` may compute norms and convolutions."""
        return (
            runs_eagerly()
            # It needs autocast, which the meta device lacks.
            and x.device.type in ('cpu', 'cuda')
            and _is_plain_norm(self.expand_norm)
            and _is_plain_norm(self.depthwise_norm)
            and _is_plain(self.depthwise, 3)
            and _is_plain(self.project, 1)
        )


def _is_plain_norm(norm: nn.Module) -> bool:
    """Return whether it is BatchNorm with weights and statistics of its own."""
    return can_inline(norm, nn.BatchNorm2d) and norm.affine and norm.track_running_stats


def _is_plain(conv: nn.Module, side: int) -> bool:
    """Return whether it is a 1x1 convolution, or a depthwise 3x3 one that pads with zeros."""
    if not can_inline_conv(conv):
        return False
    groups = conv.in_channels if side > 1 else 1
    return (
        conv.bias is not None
        and conv.weight.dtype in (torch.float32, torch.float64)
        and (conv.kernel_size, conv.stride, conv.padding, conv.groups)
        == ((side, side), (1, 1), (side // 2, side // 2), groups)
    )


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution norm(conv(x)), for a norm in evaluation."""
    assert conv.bias is not None and norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = torch.addcmul(norm.bias, conv.bias - norm.running_mean, scale)
    return conv.weight * scale.view(-1, 1, 1, 1), bias


def _norm_conv(
    x: Tensor,
    norm: nn.BatchNorm2d,
    weight: Tensor,
    bias: Tensor | None,
    *,
    gelu: Literal['input', 'output'] | None = None,
) -> Tensor:
    """Call :func:`mmcontnet.ops.norm_conv` with a norm's tensors, and count the batch.

    In inference ``x`` is overwritten.
    """
    assert bias is not None and norm.running_mean is not None and norm.running_var is not None
    momentum = norm.momentum or 0.0
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            # The average of all batches.
            momentum = 1 / float(norm.num_batches_tracked)
    return norm_conv(
        x,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        weight,
        bias,
        training=norm.training,
        momentum=momentum,
        eps=norm.eps,
        gelu=gelu,
        inplace=True,
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
