"""Whether a layer may compute a submodule's result without calling the submodule."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

from torch import Tensor, nn
from torch.nn.modules import module as all_modules

from ..ops import reference_forced

_Module = TypeVar('_Module', nn.Linear, nn.Conv2d, nn.BatchNorm2d)
_HOOKS = ('forward_hooks', 'forward_pre_hooks', 'backward_hooks', 'backward_pre_hooks')
#: Types of weights with which calls do nothing more.
PLAIN_TENSORS = [Tensor, nn.Parameter, type(None)]


def can_inline(module: nn.Module, kind: type[_Module]) -> TypeGuard[_Module]:
    """Return whether a module is exactly of that kind, and a call of it would do nothing more.

    A LoRA-wrapped or quantised layer, a subclass, a module with a hook or with weights of another
    tensor type (DTensor, say) must be called. So must every module under
    :func:`mmcontnet.ops.force_reference`.

    Args:
        module: The submodule.
        kind: Its class as the layer was built.
    """
    return (
        type(module) is kind
        and 'forward' not in module.__dict__
        # PyTorch has no public way to ask for hooks.
        and not any(getattr(module, f'_{name}') for name in _HOOKS)
        and not any(getattr(all_modules, f'_global_{name}') for name in _HOOKS)
        and type(module.weight) in PLAIN_TENSORS
        and type(module.bias) in PLAIN_TENSORS
        and not reference_forced()
    )


def can_inline_conv(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Like :func:`can_inline`, of a convolution without dilation whose padding is of zeros."""
    return (
        can_inline(module, nn.Conv2d)
        and module.padding_mode == 'zeros'
        and module.dilation == (1, 1)
    )
