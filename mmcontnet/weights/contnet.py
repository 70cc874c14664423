"""Key map of the ConTNet authors' checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..backbones.contnet import ARCHS
from .family import CheckpointError, Converted

NAME = 'ConTNet'

_BLOCK = re.compile(r'layer([1-4])\.ConTBlock(\d+)\.(.+)')
_RENAMES = (
    (re.compile(r'^bn\.'), 'norm.'),
    (re.compile(r'^out_conv\.conv\.'), 'conv.'),
    (re.compile(r'^downsample\.conv\.'), 'shortcut.'),
    (re.compile(r'^ste([12])\.'), lambda match: f'encoders.{int(match[1]) - 1}.'),
    (re.compile(r'\.attn\.(qkv|proj)\.'), r'.\1.'),
    (re.compile(r'\.mlp\.(fc[12])\.'), r'.\1.'),
    (re.compile(r'\.pe\.0$'), '.position.row'),
    (re.compile(r'\.pe\.1$'), '.position.column'),
)


def matches(keys: Iterable[str]) -> bool:
    """Tell a ConTNet checkpoint by its block names."""
    return any(_BLOCK.match(key) for key in keys)


def convert(state_dict: Mapping[str, Tensor]) -> Converted:
    """Rename the tensors, and find the arch from the number of blocks and the width.

    Raises:
        CheckpointError: If no arch of ours has these depths and widths.
    """
    converted: dict[str, Tensor] = {}
    depths = [0, 0, 0, 0]
    for key, value in state_dict.items():
        block = _BLOCK.match(key)
        if block:
            stage, index, name = int(block[1]) - 1, int(block[2]), block[3]
            depths[stage] = max(depths[stage], index + 1)
            for pattern, replacement in _RENAMES:
                name = pattern.sub(replacement, name)
            if name.endswith(('.row', '.column')):
                value = value.flatten(0, -2)  # (1, P, 1, C / 2) or (1, 1, P, C / 2)
            converted[f'backbone.stages.{stage}.{index}.{name}'] = value
        elif key.startswith('fc.'):
            converted[f'head.{key}'] = value
        else:
            converted[key.replace('layer0.conv.conv', 'backbone.stem.conv')] = value
    stem = converted.get('backbone.stem.conv.weight')
    width = None if stem is None else stem.shape[0]
    for arch, fields in ARCHS.items():
        if (tuple(depths), width) == (fields['depths'], fields['embed_dims'][0]):
            return Converted(converted, dict(type='ConTNet', arch=arch))
    raise CheckpointError(
        f'a ConTNet of unknown arch: depths {tuple(depths)}, width {width}; known: {sorted(ARCHS)}'
    )
