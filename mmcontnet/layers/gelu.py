"""A layer followed by GELU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import conv_gelu, linear_gelu
from .inline import can_inline, can_inline_conv


def apply_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """Compute gelu(layer(x)), in one pass where :func:`mmcontnet.ops.conv_gelu` can.

    Args:
        layer: A linear layer or a convolution, or a module that replaces it.
        x: Its input.

    Returns:
        Same shape as ``layer(x)``.
    """
    if can_inline(layer, nn.Linear):
        return linear_gelu(x, layer.weight, layer.bias)
    if can_inline_conv(layer) and not isinstance(layer.padding, str):
        return conv_gelu(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.groups)
    return F.gelu(layer(x))
