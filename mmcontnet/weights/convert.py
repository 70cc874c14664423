"""Convert an author's checkpoint file to one that mmpretrain and mmdet load strictly."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.registry import MODELS
from torch import Tensor

from ..checkpoint import find_fault, not_finite, read_checkpoint, unwrap
from ..errors import CheckpointError
from . import cmt, contnet, cotnet, resnet_acmix, swin_acmix
from .key_map import Converted

#: The first that matches converts.
KEY_MAPS = (
    contnet.KEY_MAP,
    cmt.KEY_MAP,
    *cotnet.KEY_MAPS,
    resnet_acmix.KEY_MAP,
    swin_acmix.KEY_MAP,
)

#: Where training scripts keep the weights, and their EMA.
_PLAIN = ('state_dict', 'model')
_EMA = tuple(f'{entry}_ema' for entry in _PLAIN)


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> Converted:
    """Recognise the family and arch of an author's state dict, and rename its tensors to ours.

    Args:
        state_dict: Tensors by the authors' names.

    Returns:
        The tensors under ``backbone.*`` and ``head.fc.*`` (and ``neck.*`` where a family has one),
        and the config of the backbone they belong to.

    Raises:
        CheckpointError: If no family knows the keys, or keys or shapes differ from the network's.
    """
    for key_map in KEY_MAPS:
        if key_map.matches(state_dict):
            converted = key_map.convert(state_dict)
            _check_complete(converted)
            return converted
    some = ', '.join(list(state_dict)[:4]) or 'no keys at all'
    some += ', ...' if len(state_dict) > 4 else ''
    known = ', '.join(dict.fromkeys(key_map.name for key_map in KEY_MAPS))
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


def _read_state_dict(path: str | Path, ema: bool | None) -> tuple[dict[str, Tensor], str | None]:
    """Read the tensors of an author's checkpoint, and tell the entry they were under, if any."""
    content = read_checkpoint(path)
    entries = [
        entry
        for entry in (*_EMA, *_PLAIN)  # the papers' results are the EMA's
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping)
    ]
    wanted = [entry for entry in entries if ema is None or (entry in _EMA) == ema]
    if (entries and not wanted) or (ema and not entries):
        kind, accepted = ('EMA', _EMA) if ema else ('plain weights', _PLAIN)
        raise CheckpointError(
            f'{str(path)!r} holds no {kind} ({" or ".join(accepted)})'
            + (f', only {" and ".join(entries)}' if entries else '')
        )
    state_dict = content[wanted[0]] if wanted else content
    fault = find_fault(state_dict) if isinstance(state_dict, Mapping) else 'it is no mapping'
    if fault:
        raise CheckpointError(
            f'{str(path)!r} holds no state dict, neither bare nor under '
            f'{", ".join((*_PLAIN, *_EMA))}: {fault}'
        )
    return unwrap(dict(state_dict)), wanted[0] if wanted else None


def convert_checkpoint(
    source: str | Path, destination: str | Path, ema: bool | None = None
) -> Converted:
    """Convert a file; ``destination`` appears whole or not at all.

    Args:
        source: The authors' checkpoint.
        destination: Written as ``{'state_dict': ..., 'meta': {'backbone': ...}}``; with the suffix
            ``.safetensors`` as the tensors, and ``backbone`` as JSON among the metadata.
        ema: Take the EMA of the weights (True; under ``state_dict_ema`` or ``model_ema``) or the
            weights themselves (False; under ``state_dict`` or ``model``) of a file that tells them
            apart; None takes the EMA if there is one.

    Raises:
        CheckpointError: If the source cannot be read or converted, or holds NaN or infinity.
        OSError: If the destination cannot be written.
    """
    state_dict, entry = _read_state_dict(source, ema)
    try:
        converted = replace(convert_state_dict(state_dict), entry=entry)
    except CheckpointError as error:
        raise CheckpointError(f'{str(source)!r} cannot be converted: {error}') from error
    if names := not_finite(converted.state_dict):
        other = '' if entry is None else ', or try --ema or --no-ema'
        raise CheckpointError(
            f'{str(source)!r} holds NaN or infinity in {len(names)} tensors ({names[0]}), as a '
            f'training that diverged leaves it; take an earlier one{other}'
        )
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=destination.parent, prefix=destination.name)
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(_serialise(converted, destination.suffix.lower() == '.safetensors'))
        # mkstemp makes files for their owner alone; a checkpoint is shared like any other file.
        os.chmod(temporary, 0o644)
        os.replace(temporary, destination)
    except BaseException:
        os.unlink(temporary)
        raise
    return converted


def _serialise(converted: Converted, safetensors: bool) -> bytes | memoryview:
    """Return the content of a file; files are not left to libraries, which hide a full disk."""
    if safetensors:
        from safetensors.torch import save  # not needed for any other file

        tensors = {key: value.contiguous() for key, value in converted.state_dict.items()}
        return save(tensors, {'format': 'pt', 'backbone': json.dumps(converted.backbone)})
    content = io.BytesIO()
    torch.save(
        {'state_dict': converted.state_dict, 'meta': {'backbone': converted.backbone}}, content
    )
    return content.getbuffer()
