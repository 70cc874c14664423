"""Key map of the authors' checkpoints of ACmix in ResNet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..backbones.resnet_acmix import ARCHS
from ..errors import CheckpointError
from .family import Converted, Tensors

NAME = 'ResNetACmix'

_NUM_HEADS = 4  # of the released networks

_RENAMES = (
    (r'^conv1\.', 'stem.convs.0.'),
    (r'^bn1\.', 'stem.norms.0.'),
    (r'^layer([1-4])\.', lambda match: f'stages.{int(match[1]) - 1}.'),
    (r'\.bn([13])\.', r'.norm\1.'),
    (r'\.bn2\.', '.layer.1.'),
    (r'\.downsample\.', '.shortcut.'),
    (r'\.conv2\.conv_p\.', '.layer.0.position.'),
    (r'\.conv2\.fc\.', '.layer.0.convolution.mix.'),
    (r'\.conv2\.dep_conv\.', '.layer.0.convolution.shift.'),
    (r'\.conv2\.rate1$', '.layer.0.sum.rate_attention'),
    (r'\.conv2\.rate2$', '.layer.0.sum.rate_convolution'),
    (r'\.conv2\.conv1\.', '.layer.0.qkv.'),
)


def matches(keys: Iterable[str]) -> bool:
    """Tell a checkpoint by the position map of its ACmix layers."""
    return any('.conv2.conv_p.' in key for key in keys)


def convert(state_dict: Mapping[str, Tensor]) -> Converted:
    """Rename the tensors, join the three projections, and find the arch and the number of heads.

    The side of attention's window leaves no trace in the tensors.

    Raises:
        CheckpointError: If no arch of ours has these depths and widths, or projections differ.
    """
    converted = Tensors()
    depths = [0, 0, 0, 0]
    for key, value in state_dict.items():
        block = re.match(r'layer([1-4])\.(\d+)\.', key)
        if block:
            stage = int(block[1]) - 1
            depths[stage] = max(depths[stage], int(block[2]) + 1)
        if key.startswith('fc.'):
            converted[f'head.{key}'] = value
            continue
        if re.search(r'\.conv2\.conv[23]\.', key):
            continue  # joined to the first
        if '.conv2.conv1.' in key:
            value = _join(state_dict, key)
        elif key.endswith('.conv2.fc.weight'):
            value = value.flatten(1)  # a linear layer of ours
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        converted[f'backbone.{key}'] = value
    width = len(state_dict.get('layer1.0.conv1.weight', ()))
    for arch, fields in ARCHS.items():
        if (tuple(depths), width) == (fields['depths'], fields['mid_channels'][0]):
            backbone: dict[str, Any] = dict(type='ResNetACmix', arch=arch)
            groups = converted.get('backbone.stages.0.0.layer.0.convolution.mix.weight')
            if groups is not None and groups.shape[-1] != 3 * _NUM_HEADS:
                backbone['num_heads'] = groups.shape[-1] // 3
            return Converted(dict(converted), backbone)
    raise CheckpointError(
        f'a ResNetACmix of unknown arch: depths {tuple(depths)}, width {width}; '
        f'known: {sorted(ARCHS)}'
    )


def _join(state_dict: Mapping[str, Tensor], key: str) -> Tensor:
    """Join three projections; what is missing shows in the shape."""
    keys = [key.replace('.conv2.conv1.', f'.conv2.conv{i}.') for i in (1, 2, 3)]
    try:
        return torch.cat([state_dict[key] for key in keys if key in state_dict])
    except RuntimeError as error:
        raise CheckpointError(f'{", ".join(keys)} do not fit together: {error}') from error
