"""Linear layer over tokens, and GELU after a layer."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import conv_gelu, linear

_Module = TypeVar('_Module', bound=nn.Module)


class Linear(nn.Linear):
    """``nn.Linear`` for tokens (B, N, C) or (B, H, W, C), see :func:`mmcontnet.ops.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C')."""
        return linear(x, self.weight, self.bias)


def gelu_after(layer: nn.Module, x: Tensor) -> Tensor:
    """Compute gelu(layer(x)), see :func:`mmcontnet.ops.conv_gelu`.

    Args:
        layer: :class:`Linear`, a zero-padded square convolution without dilation, or what has been
            put in its place.
        x: Its input.

    Returns:
        As the layer.
    """
    if is_untouched(layer, Linear):
        return linear(x, layer.weight, layer.bias, gelu=True)
    if is_untouched(layer, nn.Conv2d):
        return conv_gelu(
            x,
            layer.weight,
            layer.bias,
            stride=layer.stride[0],
            padding=int(layer.padding[0]),
            groups=layer.groups,
        )
    return F.gelu(layer(x))


def is_untouched(module: nn.Module, kind: type[_Module]) -> TypeGuard[_Module]:
    """Return whether to compute what a module of that kind does without calling it.

    What quantisation, adapters and the like put in its place, and hooks, want to be called.
    """
    return type(module) is kind and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
