"""Read checkpoints without running code that they may hold, and load their weights.

Importing this changes nothing: mmengine reads files by the same rules within
:func:`safe_loading`.
"""

from __future__ import annotations

import copy
import glob
import hashlib
import http.client
import logging
import os
import re
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from torch import Tensor, nn

from .checkpoint_file import read_file
from .errors import CheckpointError, WeightMismatchError

#: Parts that torch.compile and FSDP put into names, anywhere.
_WRAPPERS = {'_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module'}
#: Under which mmengine and other packages save weights.
_ENTRIES = ('state_dict', 'model')
#: Seconds that a server may be silent.
_TIMEOUT = 30
#: Seconds after which it is told again how much has come.
_INTERVAL = 5
#: Seconds after which nobody writes on a part of a file.
_ABANDONED = 3600


def read_checkpoint(path: str | Path, *, mmap: bool = False) -> Any:
    """Read a local checkpoint of ``torch.save``, or a .safetensors file.

    Args:
        path: The file; ``~`` is the home folder.
        mmap: Leave the values of the tensors in the file until they are used, for a look into a
            file that stays as it is meanwhile. Otherwise its check sums are compared.

    Returns:
        Plain containers, and tensors on the CPU. Of what mmengine saves in training, histories and
        NumPy's numeric arrays are made anew; configs and options become dicts.

    Raises:
        CheckpointError: If the file is missing, broken, or holds anything else.
    """
    file, source = os.path.expanduser(path), f'checkpoint {str(path)!r}'
    if os.path.isdir(file):
        raise CheckpointError(f'{source} is a folder, not a file')
    if not os.path.isfile(file):
        raise CheckpointError(f'{source} not found')
    try:
        with open(file, 'rb') as stream:
            return read_file(stream, mmap)
    except CheckpointError as error:
        raise CheckpointError(f'{source} cannot be read: {error}') from None
    except OSError as error:
        raise CheckpointError(f'{source} cannot be read: {error.strerror or error}') from error
    except Exception as error:  # a broken file may raise anything
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise CheckpointError(f'{source} cannot be read: not enough memory') from error
        reason = f'{type(error).__name__}: {error}'.partition('\n')[0]
        raise CheckpointError(f'{source} cannot be read: it is broken ({reason:.200})') from error


def read_weights(source: str, entries: Sequence[str] = _ENTRIES) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, whether it holds more or not.

    Names of models that were wrapped (``module.``, ``_orig_mod.``) lose what the wrappers put
    before them.

    Args:
        source: A local file, or a URL that mmengine knows how to fetch.
        entries: Under which they may be, instead of at the top.

    Raises:
        CheckpointError: If the file cannot be read, or holds no dense tensors by their names.
    """
    state = content = _read_or_fetch(source)
    if isinstance(content, Mapping):
        state = next((content[entry] for entry in entries if entry in content), content)
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f'checkpoint {source!r} is no state dict: it holds a {type(state).__name__} instead of '
            'tensors with names'
        )
    # Beside bare tensors there may be anything, but mmengine fails at names that are not strings.
    tensors = {
        key: value
        for key, value in state.items()
        if isinstance(value, Tensor) or not isinstance(key, str)
    }
    if fault := find_fault(tensors):
        raise CheckpointError(f'checkpoint {source!r} cannot be loaded: {fault}')
    unwrapped = unwrap(tensors)
    if unwrapped is not tensors:
        some = f'{next(iter(tensors))} is {next(iter(unwrapped))}'
        print_log(f'checkpoint {source!r} is of a wrapped model: {some} here', 'current')
    return unwrapped


def read_dataset_meta(source: str) -> dict[str, Any]:
    """Read what a training has noted of its data, such as ``classes``; nothing if it has not.

    Args:
        source: See :func:`read_weights`.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    content = _read_or_fetch(source)
    for key in ('meta', 'dataset_meta'):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, dict) else {}


def _read_or_fetch(source: str) -> Any:
    return _fetch(source) if '://' in source else read_checkpoint(source, mmap=True)


def find_fault(state: Mapping[Any, Any]) -> str | None:
    """Say what of a state dict cannot be weights; None if all are tensors by their names."""
    for name, value in state.items():
        if not isinstance(name, str):
            return f'it has a key of type {type(name).__name__}; names are strings'
        if not name.isprintable():
            return f'the name {name!r:.100} cannot be printed'
        if not isinstance(value, Tensor):
            return f'{name} is of type {type(value).__name__}; weights are tensors'
    return None


def unwrap(weights: dict[str, Any]) -> dict[str, Any]:
    """Take out of names what wrappers of a model put there; DDP's only where all names have it."""
    if not all(isinstance(name, str) for name in weights):
        return weights
    # A bare state dict may have other things beside the weights.
    tensors = [name for name, value in weights.items() if isinstance(value, Tensor)]

    def strip(name: str, parallel: bool) -> str:
        parts = [part for part in name.split('.') if part not in _WRAPPERS]
        while parallel and parts[0] == 'module' and len(parts) > 1:
            parts = parts[1:]
        return '.'.join(parts)

    parallel = all(strip(name, False).startswith('module.') for name in tensors)
    found = {strip(name, parallel): weight for name, weight in weights.items()}
    if found.keys() == weights.keys() or len(found) < len(weights):
        return weights
    return found


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that hold NaN or infinity."""
    return [
        name
        for name, value in weights.items()
        if value.is_floating_point() and not value.float().isfinite().all()
    ]


def load_checkpoint(
    module: nn.Module,
    source: str,
    prefix: str = '',
    needed: Literal['all', 'backbone', 'half'] = 'all',
) -> list[str]:
    """Load a module's tensors from a checkpoint of the whole model.

    Args:
        module: The model, or a part of it.
        source: See :func:`read_weights`.
        prefix: Of the part's names in the model, e.g. ``'backbone.'``.
        needed: See :func:`load_weights`.

    Returns:
        See :func:`load_weights`.

    Raises:
        CheckpointError: As :func:`read_weights` and :func:`load_weights`.
    """
    weights = {name.removeprefix(prefix): tensor for name, tensor in read_weights(source).items()}
    return load_weights(module, weights, f'checkpoint {source!r}', needed)


def load_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    source: str,
    needed: Literal['all', 'backbone', 'half'] = 'all',
) -> list[str]:
    """Load tensors into a module, and say what does not fit: mmengine would merely warn.

    Args:
        module: The module; on the meta device if only the checks are wanted.
        weights: Tensors by their names in the module; others than its are left out. Modules with a
            method ``adapt_weights(weights, prefix)`` can replace theirs by others that fit.
        source: What holds them, for the message.
        needed: What must be there: all tensors; those of the backbone, all that do not depend on
            the classes; or any half of them.

    Returns:
        Names of the tensors that stay as they were: what is neither there nor needed.

    Raises:
        WeightMismatchError: If a tensor that is needed is missing or of another shape, if the
            weights are those of a deeper network, or if they hold NaN or infinity.
    """
    for name, part in module.named_modules():
        if hasattr(part, 'adapt_weights'):
            prefix = f'{name}.' if name else ''
            try:
                adapted = part.adapt_weights(weights, prefix)
            except WeightMismatchError:  # told below, with all others
                adapted = {}
            # New tensors of a module without memory have no values either; any will do.
            adapted = {
                key: torch.zeros(value.shape, dtype=value.dtype) if value.is_meta else value
                for key, value in adapted.items()
            }
            weights = {**weights, **adapted}
            # What could not be adapted its load hook would refuse.
            shapes = {f'{prefix}{key}': value.shape for key, value in part.state_dict().items()}
            weights = {
                key: value
                for key, value in weights.items()
                if shapes.get(key, value.shape) == value.shape
            }
    loaded = _loaded(module, weights)
    # Old checkpoints lack these counters, and BatchNorm does without.
    names = [name for name in module.state_dict() if not name.endswith('num_batches_tracked')]
    left = [name for name in names if name not in loaded]
    _check_depth(module, weights, source)
    lacking = left
    if needed == 'backbone':
        lacking = [name for name in left if 'backbone' in name.split('.')[:-1]]
    elif needed == 'half' and 2 * len(left) <= len(names):
        lacking = []
    if lacking:
        some = ', '.join(lacking[:3]) + (', ...' if len(lacking) > 3 else '')
        raise WeightMismatchError(
            f'{source} does not fit: {len(lacking)} of {len(names)} tensors of '
            f'{type(module).__name__} are missing or of another shape ({some})'
        )
    # Other buffers may hold infinity on purpose, masks for one.
    learnt = {name for name, _ in module.named_parameters()}
    learnt |= {name for name, _ in module.named_buffers() if 'running_' in name}
    if bad := not_finite({name: loaded[name] for name in sorted(learnt & loaded.keys())}):
        raise WeightMismatchError(
            f'{source} holds NaN or infinity in {len(bad)} tensors ({bad[0]}), as a training that '
            'diverged leaves it; take an earlier one'
        )
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name in loaded and not tensor.is_meta:
                tensor.copy_(loaded[name])
    return left


def _loaded(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Find out what PyTorch would load into a module, whose hooks may rename weights.

    Returns:
        The weights by their names in the module, of those that fit.
    """
    # Into a copy without memory: what has values afterwards was loaded.
    probe = copy.deepcopy(module).to('meta').requires_grad_(False)
    complete: list[bool] = []
    probe.register_load_state_dict_post_hook(lambda *_: complete.append(True))
    try:
        probe.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError:
        # For tensors of other shapes, at the end. A hook that raises stops it before.
        if not complete:
            raise
    return {name: value for name, value in probe.state_dict().items() if not value.is_meta}


def _check_depth(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Check that weights are not those of a deeper network, which would load without a word.

    Stages that are not built, because no output needs them, may be in the file; blocks of those
    that are built may not.
    """
    for name in weights:
        parts = name.split('.')
        part = module
        for i, key in enumerate(parts[:-1]):
            children = dict(part.named_children())
            if key not in children:
                if i > 1 and 'stages' in parts[: i - 1] and key.isdecimal() and children:
                    raise WeightMismatchError(
                        f'{source} is of a deeper network: it has {".".join(parts[: i + 1])}, '
                        f'which {type(module).__name__} does not'
                    )
                break
            part = children[key]


@contextmanager
def safe_loading() -> Iterator[None]:
    """Have mmengine read checkpoints as :func:`read_checkpoint` does while the context is open.

    By itself it opens what PyTorch refuses as unsafe. Files always come to the CPU, from where
    mmengine copies weights.
    """
    from mmengine.runner import checkpoint as theirs

    loader = theirs.CheckpointLoader
    schemes, their_http = loader._schemes, theirs.load_from_http
    loader._schemes = dict(schemes)
    loader.register_scheme('', load_from_local, force=True)
    for scheme, load in schemes.items():
        if load in (theirs.load_from_ceph, theirs.load_from_pavi):
            loader.register_scheme(scheme, load_from_elsewhere, force=True)
    loader.register_scheme(('http://', 'https://'), load_from_http, force=True)
    theirs.load_from_http = load_from_http  # which torchvision:// and openmmlab:// call
    try:
        yield
    finally:
        loader._schemes = schemes
        theirs.load_from_http = their_http


# mmengine logs the names of loaders from their eleventh character on.
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a file for mmengine."""
    content = read_checkpoint(filename)
    if isinstance(content, dict):
        entry = next((entry for entry in _ENTRIES if isinstance(content.get(entry), dict)), None)
        if entry is None:
            return unwrap(content)
        content['state_dict'] = unwrap(content[entry])  # the one entry that mmengine knows
    return content


def load_from_elsewhere(filename: str, map_location: Any = None) -> Any:
    """Refuse what mmengine would fetch and open in its own way."""
    raise CheckpointError(f'checkpoint {filename!r} cannot be fetched safely; download it first')


def _fetch(url: str) -> Any:
    from mmengine.runner import CheckpointLoader

    try:
        with safe_loading():
            return CheckpointLoader.load_checkpoint(url, map_location='cpu')
    except CheckpointError:
        raise
    except Exception as error:  # each way to fetch has its own
        reason = str(error).partition('\n')[0]
        raise CheckpointError(
            f'checkpoint {url!r} cannot be fetched: {type(error).__name__}: {reason}'
        ) from error


def load_from_http(url: str, map_location: Any = None) -> Any:
    """Fetch a file into torch.hub's cache, and load it for mmengine."""
    # URLs of other servers or versions may end in the same name.
    folder = os.path.join(torch.hub.get_dir(), 'checkpoints')
    name = os.path.basename(urlparse(url).path)
    file = os.path.join(folder, f'{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name[-50:]}')
    # What torch.hub fetched before is taken if it is surely the same.
    before = os.path.join(folder, name)
    if not os.path.isfile(file) and os.path.isfile(before) and _has_named_hash(before, name):
        file = before
    # One process of a group downloads, and those of other machines find theirs missing.
    for turn in (get_rank() == 0, True):
        if turn and not os.path.isfile(file):
            _download(url, file, name)
        barrier()
    return load_from_local(file)


def _has_named_hash(file: str, name: str) -> bool | None:
    """Compare a file with the SHA-256 in a name, ``-<8 digits or more>``; None if it has none."""
    match = re.search(r'-([0-9a-f]{8,64})\.\w+$', name)
    if not match or match[1].isdecimal():  # rather a date
        return None
    digest = hashlib.sha256()
    with open(file, 'rb') as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest().startswith(match[1])


def _download(url: str, file: str, name: str) -> None:
    """Fetch a file, which appears once it is whole."""
    partial = f'{file}.{os.getpid()}.partial'
    request = urllib.request.Request(url, headers={'User-Agent': 'mmcontnet'})
    print_log(f'downloading {url} to {file}', 'current')
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        for old in glob.glob(f'{glob.escape(file)}.*.partial'):  # of a process that was killed
            with suppress(FileNotFoundError):  # others delete it, too
                if time.time() - os.path.getmtime(old) > _ABANDONED:
                    os.unlink(old)
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            length = answer.headers.get('Content-Length', '')
            total = f' of {int(length) / 2**20:.1f}' if length.isdecimal() else ''
            told = time.monotonic()
            with open(partial, 'wb') as stream:
                while block := answer.read1(2**20):  # what has come
                    stream.write(block)
                    if time.monotonic() - told > _INTERVAL:
                        told, done = time.monotonic(), stream.tell() / 2**20
                        print(f'{name}: {done:.1f}{total} MiB', file=sys.stderr, flush=True)
        if length.isdecimal() and int(length) != os.path.getsize(partial):
            raise OSError(f'{os.path.getsize(partial)} of {length} bytes came')
        read_checkpoint(partial, mmap=True)  # else a page to log in would be kept, too
        os.replace(partial, file)
        if _has_named_hash(file, name) is False:  # damage shows when the file is read
            print_log(f'{file} is not of the SHA-256 in its name', 'current', logging.WARNING)
    except (CheckpointError, OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error).rpartition('cannot be read: ')[2]
        reason = reason if reason.isprintable() else repr(reason)  # servers send anything
        raise CheckpointError(f'checkpoint {url!r} cannot be fetched: {reason:.200}') from error
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
