"""From an author's checkpoint file to one that mmpretrain and mmdet load strictly."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor

from . import cmt, contnet, cotnet, resnet_acmix, swin_acmix
from .family import CheckpointError, Converted

#: Modules with NAME, ``matches(keys)`` and ``convert(state_dict)``; the first match converts.
FAMILIES = (contnet, cmt, cotnet, resnet_acmix, swin_acmix)

#: Where training scripts keep the weights, and their moving average.
_PLAIN = ('state_dict', 'model')
_AVERAGED = tuple(f'{entry}_ema' for entry in _PLAIN)


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> Converted:
    """Recognise the family and arch of an author's state dict, and rename its tensors to ours.

    Args:
        state_dict: The authors' keys, possibly with a ``module.`` prefix.

    Returns:
        The tensors under ``backbone.*`` and ``head.fc.*`` (and ``neck.*`` where a family has one),
        and the config of the backbone they belong to.

    Raises:
        CheckpointError: If no family knows the keys, or keys or shapes differ from the network's.
    """
    state_dict = {key.removeprefix('module.'): value for key, value in state_dict.items()}
    for family in FAMILIES:
        if family.matches(state_dict):
            converted = family.convert(state_dict)
            _check_complete(converted)
            return converted
    some = ', '.join(list(state_dict)[:4]) or 'no keys at all'
    some += ', ...' if len(state_dict) > 4 else ''
    known = ', '.join(family.NAME for family in FAMILIES)
    raise CheckpointError(f'unknown checkpoint: it holds {some}; known families: {known}')


def _check_complete(converted: Converted) -> None:
    """Compare names and shapes with the network that the tensors are meant for."""
    parts = {'backbone': converted.backbone, 'neck': converted.neck}
    wanted = {}
    try:
        with torch.device('meta'):
            for name, config in parts.items():
                if config is not None:
                    module = MODELS.build(config)
                    state = module.state_dict(prefix=f'{name}.')
                    wanted.update({key: value.shape for key, value in state.items()})
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    found = {key: value.shape for key, value in converted.state_dict.items()}
    # The number of classes is free.
    fc = found.get('head.fc.weight', torch.Size([0]))
    channels = module.out_channels
    wanted['head.fc.weight'] = torch.Size([*fc[:1], channels if converted.neck else channels[-1]])
    wanted['head.fc.bias'] = fc[:1]
    if wanted != found:
        wrong = sorted(key for key in wanted.keys() | found if wanted.get(key) != found.get(key))
        details = '; '.join(
            f'{key}: {_size(found.get(key))} instead of {_size(wanted.get(key))}'
            for key in wrong[:4]
        )
        raise CheckpointError(
            f'{len(wrong)} tensors do not fit {converted.backbone}: {details}'
            + (', ...' if len(wrong) > 4 else '')
        )


def _size(shape: torch.Size | None) -> str:
    return 'nothing' if shape is None else str(tuple(shape))


def load_state_dict(
    path: str | Path, ema: bool | None = None
) -> tuple[dict[str, Tensor], str | None]:
    """Read the tensors of a checkpoint without running any code that it may hold.

    Args:
        path: A file written by ``torch.save``: a state dict, or one under ``state_dict`` or
            ``model``, or a moving average of it under ``state_dict_ema`` or ``model_ema``.
        ema: Take the moving average (True) or the plain weights (False) of a file that tells them
            apart; None takes the average if there is one.

    Returns:
        The tensors, and the entry they were under; None for a bare state dict.

    Raises:
        CheckpointError: If the file is missing, broken, holds more than tensors and plain
            containers, no tensors, or not those that ``ema`` asks for.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f'checkpoint {str(path)!r} not found')
    try:
        # Training scripts keep their options beside the weights; a Namespace only holds values.
        # It stays allowed for the process: torch 2.4 has no `safe_globals` to confine it with.
        torch.serialization.add_safe_globals([argparse.Namespace])
        content: Any = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f'{str(path)!r} is no checkpoint of plain tensors: {reason}'
        ) from None
    except Exception as error:  # a broken archive or pickle may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f'cannot read checkpoint {str(path)!r}: {reason}') from None
    entries = [
        entry
        for entry in (*_AVERAGED, *_PLAIN)  # the papers' results are the average's
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping)
    ]
    wanted = [entry for entry in entries if ema is None or (entry in _AVERAGED) == ema]
    if (entries and not wanted) or (ema and not entries):
        kind, accepted = ('moving average', _AVERAGED) if ema else ('plain weights', _PLAIN)
        raise CheckpointError(
            f'{str(path)!r} holds no {kind} ({" or ".join(accepted)})'
            + (f', only {" and ".join(entries)}' if entries else '')
        )
    state_dict = content[wanted[0]] if wanted else content
    if not isinstance(state_dict, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state_dict.items()
    ):
        raise CheckpointError(
            f'{str(path)!r} holds no state dict, neither bare nor under '
            + ', '.join((*_PLAIN, *_AVERAGED))
        )
    return dict(state_dict), wanted[0] if wanted else None


def convert_checkpoint(
    source: str | Path, destination: str | Path, ema: bool | None = None
) -> Converted:
    """Convert a file; ``destination`` appears whole or not at all.

    Args:
        source: The authors' checkpoint.
        destination: Written as ``{'state_dict': ..., 'meta': {'backbone': ...}}``.
        ema: See :func:`load_state_dict`.

    Raises:
        CheckpointError: If the source cannot be read or converted.
        OSError: If the destination cannot be written.
    """
    state_dict, entry = load_state_dict(source, ema)
    converted = replace(convert_state_dict(state_dict), entry=entry)
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=destination.parent, prefix=destination.name)
    try:
        # Through memory: torch.save turns a full disk into a RuntimeError that does not say so.
        content = io.BytesIO()
        meta = {'backbone': converted.backbone}
        torch.save({'state_dict': converted.state_dict, 'meta': meta}, content)
        with os.fdopen(handle, 'wb') as file:
            file.write(content.getbuffer())
        # mkstemp makes files for their owner alone; a checkpoint is shared like any other file.
        os.chmod(temporary, 0o644)
        os.replace(temporary, destination)
    except BaseException:
        os.unlink(temporary)
        raise
    return converted
