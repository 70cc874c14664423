"""GELU after a layer, and whether a layer may be computed without being called."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as all_modules

from ..ops import conv_gelu, fuses_gelu, linear
from .linear import Linear

_Module = TypeVar('_Module', bound=nn.Module)
_HOOKS = ('forward_hooks', 'forward_pre_hooks', 'backward_hooks', 'backward_pre_hooks')


def gelu_after(layer: nn.Module, x: Tensor) -> Tensor:
    """Compute gelu(layer(x)), in one pass where :func:`mmcontnet.ops.fuses_gelu` says so.

    Args:
        layer: A :class:`Linear`, a convolution, or what has been put in its place.
        x: Its input.

    Returns:
        As the layer.
    """
    if is_untouched(layer, Linear) and fuses_gelu(x, layer.weight):
        return linear(x, layer.weight, layer.bias, gelu=True)
    if (
        is_untouched(layer, nn.Conv2d)
        and fuses_gelu(x, layer.weight)
        and layer.padding_mode == 'zeros'
        and not isinstance(layer.padding, str)
    ):
        return conv_gelu(
            x,
            layer.weight,
            layer.bias,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
        )
    return F.gelu(layer(x))


def is_untouched(module: nn.Module, kind: type[_Module]) -> TypeGuard[_Module]:
    """Return whether a module of that kind may be computed without being called.

    What quantisation, adapters and the like put in its place, or hook onto it, wants to be called.
    Compilers fuse by themselves, and exported programs hold known ops only.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and type(module) is kind
        and 'forward' not in vars(module)
        and not any(getattr(module, f'_{name}') for name in _HOOKS)
        and not any(getattr(all_modules, f'_global_{name}') for name in _HOOKS)
    )
