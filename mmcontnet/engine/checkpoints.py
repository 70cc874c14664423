"""Read checkpoints without running code that they may hold.

A checkpoint is a pickle, and a pickle can call anything. PyTorch refuses all but tensors and plain
containers if asked to; what mmengine saves in training holds a little more, its log among it.
mmengine asks PyTorch, and opens what is refused nevertheless. Here nothing else is opened, by
mmengine's runner neither: importing this module makes it read local files by the same rules.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
import zipfile
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from numpy._core import multiarray

from .config import UserError


def _method_of_history(owner: Any, name: str) -> Any:
    """Stand in for getattr, with which HistoryBuffer pickles its statistics."""
    if owner is HistoryBuffer and name in ('current', 'max', 'mean', 'min'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r})')


_ALLOWED: list[Any] = [
    HistoryBuffer,
    argparse.Namespace,  # which authors' training scripts keep beside the weights
    (_method_of_history, 'builtins.getattr'),
    bytes,  # of an empty array
    slice,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(name)) for name in ('bool', 'int32', 'int64', 'uint32', 'float32', 'float64')),
    # NumPy 1 and 2 call their module by different names, and either reads what both wrote.
    *(
        (getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
        for core in ('core', '_core')
        for name in ('_reconstruct', 'scalar')
    ),
]


def read_checkpoint(path: str, map_location: Any = 'cpu') -> Any:
    """Read a local checkpoint.

    Args:
        path: File that ``torch.save`` wrote; ``~`` is the home folder.
        map_location: Device for the tensors; on ``'meta'`` only their names and shapes are read.

    Raises:
        UserError: If it is missing or broken, or holds more than tensors, plain containers and what
            mmengine saves in training.
    """
    file = os.path.expanduser(path)
    if not os.path.isfile(file):
        raise UserError(f'checkpoint {path!r} not found')
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            # Files of torch < 1.6 are no archives, and cannot be mapped.
            mmap = map_location == 'meta' and zipfile.is_zipfile(file)
            return torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise UserError(
            f'checkpoint {path!r} is broken, or holds more than weights, which may be code that '
            f'runs when it is read: {_reason(error)}'
        ) from None
    except Exception as error:  # a broken archive may raise anything
        raise UserError(f'checkpoint {path!r} cannot be read: {_reason(error)}') from error


def _reason(error: Exception) -> str:
    """Return what PyTorch found, without its advice to trust the file."""
    text = str(error)
    found = re.search(r'GLOBAL \S+|Unsupported operand \d+|getattr\(.*\)', text)
    return found[0] if found else text.partition('\n')[0] or type(error).__name__


@CheckpointLoader.register_scheme(prefixes='', force=True)
def _load_local(filename: str, map_location: Any = None) -> Any:
    return read_checkpoint(filename, map_location)
