"""What can be the weights of a network: asked before anything is computed with them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

#: What tensors may take in memory whatever a file holds of them, in bytes: an expanded tensor, of
#: which a file holds one number, is nothing bad.
_HARMLESS = 2**30


class CfgNode:
    """Stand in for yacs's, the options that Swin's training script keeps beside the weights."""

    def __new__(cls) -> dict[str, Any]:  # type: ignore[misc]
        """Give a container that PyTorch fills, and that runs nothing when it does."""
        return OrderedDict()


CfgNode.__module__ = 'yacs.config'  # by which PyTorch knows it


def reason_of(error: Exception) -> str:
    """Return in a line what PyTorch found in a file, without its advice to trust the file."""
    text = str(error)
    found = re.search(r'GLOBAL \S+|Unsupported operand \d+|getattr\(.*\)', text)
    return found[0] if found else text.partition('\n')[0] or type(error).__name__


def find_fault(state: Mapping[Any, Any]) -> str | None:
    """Look for what cannot be weights, without a use of the tensors' memory.

    Args:
        state: What a checkpoint holds as a state dict.

    Returns:
        What is wrong, or None: all are dense tensors by their names, and do not claim to be much
        larger than what the file holds of them.
    """
    stored: dict[int, int] = {}
    claimed = 0
    for name, value in state.items():
        if not isinstance(name, str):
            return f'it has a key of type {type(name).__name__}; names are strings'
        if not name.isprintable():
            return f'the name {name!r:.100} cannot be printed'
        if not isinstance(value, Tensor):
            return f'{name} is of type {type(value).__name__}; weights are tensors'
        if value.is_meta:
            return f'{name} is a tensor without values'
        if value.is_quantized or value.is_nested or value.layout != torch.strided:
            return f'{name} is quantized, nested or sparse; weights are dense tensors'
        storage = value.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        claimed += value.numel() * value.element_size()
    held = sum(stored.values())
    # Twice and more for tensors of several names.
    if claimed > max(_HARMLESS, 4 * held):
        return f'its tensors would take {claimed:.1e} bytes of memory, and it holds {held} of them'
    return None


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of tensors that hold NaN or infinity."""
    return [
        name
        for name, value in tensors
        if value.is_floating_point() and not value.float().isfinite().all()
    ]
