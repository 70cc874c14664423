"""Key map of the CoTNet authors' checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..backbones.cotnet import ARCHS
from ..errors import CheckpointError
from .family import Converted, Tensors

NAME = 'CoTNet'

_RENAMES = (
    # The stem: one convolution and its norm, or three with theirs but for the last.
    (r'^conv1\.weight$', 'stem.convs.0.weight'),
    (r'^conv1\.([036])\.', lambda match: f'stem.convs.{int(match[1]) // 3}.'),
    (r'^conv1\.([14])\.', lambda match: f'stem.norms.{int(match[1]) // 3}.'),
    (r'^layer([1-4])\.', lambda match: f'stages.{int(match[1]) - 1}.'),
    (r'\.bn([13])\.', r'.norm\1.'),
    # CoT layer.
    (r'\.conv2\.key_embed\.', '.layer.key.'),
    (r'\.conv2\.embed\.', '.layer.embed.'),
    (r'\.conv2\.conv1x1\.', '.layer.value.'),
    (r'\.conv2\.bn\.', '.layer.norm.'),
    (r'\.conv2\.se\.', '.layer.fuse.'),
    # Split attention.
    (r'\.conv2\.conv\.', '.layer.conv.0.'),
    (r'\.conv2\.bn0\.', '.layer.conv.1.'),
    (r'\.conv2\.fc1\.', '.layer.attention.0.'),
    (r'\.conv2\.norm1\.', '.layer.attention.1.'),
    (r'\.conv2\.fc2\.', '.layer.attention.3.'),
)


def matches(keys: Iterable[str]) -> bool:
    """Tell a CoTNet checkpoint by its CoT layers."""
    return any('.conv2.key_embed.0.' in key for key in keys)


def convert(state_dict: Mapping[str, Tensor]) -> Converted:
    """Rename the tensors, and find the arch from the number of blocks, the width and the stem.

    Raises:
        CheckpointError: If no arch of ours has these depths and widths.
    """
    deep = 'conv1.0.weight' in state_dict
    shortcut = ('1', '2') if deep else ('0', '1')
    converted = Tensors()
    depths = [0, 0, 0, 0]
    for key, value in state_dict.items():
        block = re.match(r'layer([1-4])\.(\d+)\.', key)
        if block:
            stage = int(block[1]) - 1
            depths[stage] = max(depths[stage], int(block[2]) + 1)
        if key.endswith('.filt'):
            continue  # the fixed filter of a blur
        if key.startswith('fc.'):
            converted[f'head.{key}'] = value
            continue
        key = re.sub(r'^bn1\.', f'stem.norms.{2 if deep else 0}.', key)
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        for ours, theirs in enumerate(shortcut):
            key = key.replace(f'.downsample.{theirs}.', f'.shortcut.{ours}.')
        converted[f'backbone.{key}'] = value
    width = len(state_dict.get('layer1.0.conv1.weight', ()))
    for arch, fields in ARCHS.items():
        if (tuple(depths), width, deep) == (
            fields['depths'],
            fields['mid_channels'][0],
            fields['deep'],
        ):
            return Converted(dict(converted), dict(type='CoTNet', arch=arch))
    raise CheckpointError(
        f'a CoTNet of unknown arch: depths {tuple(depths)}, width {width}; known: {sorted(ARCHS)}'
    )
