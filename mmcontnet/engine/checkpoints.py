"""Read checkpoints without running code that they may hold.

A checkpoint is a pickle, and a pickle can call anything. PyTorch refuses all but tensors and plain
containers if asked to; what mmengine saves in training holds a little more, its log among it.
mmengine asks PyTorch, and opens what is refused nevertheless. Here nothing else is opened, by
mmengine's runner neither: importing this module makes it read files, local and from the web, by the
same rules.
"""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader
from numpy._core import multiarray

from ..errors import UserError
from ..weights.tensors import CfgNode, reason_of

#: Functions that mmengine's objects keep among their values, and pickle by getattr.
_METHODS = {
    HistoryBuffer: ('current', 'max', 'mean', 'min'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}


def _method(owner: Any, name: str) -> Any:
    """Stand in for getattr."""
    if name in _METHODS.get(owner, ()):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r})')


_ALLOWED: list[Any] = [
    *_METHODS,
    argparse.Namespace,  # which authors' training scripts keep beside the weights
    CfgNode,
    (dict, 'mmengine.config.config.ConfigDict'),  # of a data set's metainfo
    (_method, 'builtins.getattr'),
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


def read_checkpoint(path: str, map_location: Any = 'cpu', *, mmap: bool = False) -> Any:
    """Read a local checkpoint.

    Args:
        path: File that ``torch.save`` wrote; ``~`` is the home folder.
        map_location: Device for the tensors.
        mmap: Leave the values of the tensors in the file until they are used; for a look into a
            file that stays as it is meanwhile.

    Raises:
        UserError: If it is missing or broken, or holds more than tensors, plain containers and what
            mmengine saves in training.
    """
    file = os.path.expanduser(path)
    if os.path.isdir(file):
        raise UserError(f'checkpoint {path!r} is a folder, not a file')
    if not os.path.isfile(file):
        raise UserError(f'checkpoint {path!r} not found')
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            # Files of torch < 1.6 are no archives, and cannot be mapped.
            if zipfile.is_zipfile(file):
                # Tensors that claim more than the file holds are found before there is memory for
                # them.
                content = torch.load(file, map_location='cpu', weights_only=True, mmap=True)
                if mmap:
                    return content
            return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f'checkpoint {path!r} is broken, or holds more than weights, which may be code that '
            f'runs when it is read: {reason_of(error)}'
        ) from None
    except Exception as error:  # a broken archive may raise anything
        raise UserError(
            f'checkpoint {path!r} cannot be read as torch.save writes it: {reason_of(error)}'
        ) from error


def _load_local(filename: str, map_location: Any = None) -> Any:
    return read_checkpoint(filename, map_location)


def _load_from_web(url: str, map_location: Any = None) -> Any:
    file = os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(urlparse(url).path))
    # One process of a group downloads, and those of other machines find theirs missing.
    for turn in (get_rank() == 0, True):
        if turn and not os.path.isfile(file):
            os.makedirs(os.path.dirname(file), exist_ok=True)
            try:
                torch.hub.download_url_to_file(url, file, progress=False)
            except OSError as error:
                raise UserError(f'checkpoint {url!r} cannot be fetched: {error}') from error
        barrier()
    return read_checkpoint(file, map_location)


# Not so with older versions of PyTorch, of which only the backbones are promised to run.
if hasattr(torch.serialization, 'safe_globals'):
    CheckpointLoader.register_scheme('', _load_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), _load_from_web, force=True)
