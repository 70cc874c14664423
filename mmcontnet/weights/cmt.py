"""Key map of the CMT authors' checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..backbones.cmt import ARCHS
from ..errors import CheckpointError
from ..layers.position_bias import native_side
from .family import Converted, Tensors

NAME = 'CMT'

_RENAMES = (
    (r'^relative_pos_([a-d])$', r'stages.\1.position_bias.table'),
    (r'^stem_(conv|norm)([1-3])\.', lambda match: f'stem.{match[1]}s.{int(match[2]) - 1}.'),
    (r'^patch_embed_([a-d])\.proj\.', r'stages.\1.aggregation.conv.'),
    (r'^patch_embed_([a-d])\.norm\.', r'stages.\1.aggregation.norm.'),
    (r'^blocks_([a-d])\.(\d+)\.', r'stages.\1.blocks.\2.'),
    (r'(blocks\.\d+)\.proj\.', r'\1.local.'),
    (r'\.attn\.sr\.', '.attention.reduce.'),
    (r'\.attn\.', '.attention.'),
    (r'\.mlp\.conv1\.0\.', '.ffn.expand.'),
    (r'\.mlp\.conv1\.2\.', '.ffn.expand_norm.'),
    (r'\.mlp\.proj\.', '.ffn.depthwise.'),
    (r'\.mlp\.proj_bn\.', '.ffn.depthwise_norm.'),
    (r'\.mlp\.conv2\.0\.', '.ffn.project.'),
    (r'\.mlp\.conv2\.1\.', '.ffn.project_norm.'),
    (r'^stages\.([a-d])', lambda match: f'stages.{ord(match[1]) - ord("a")}'),
)
_HEADS = (('_fc.', 'neck.conv.'), ('_bn.', 'neck.norm.'), ('head.', 'head.fc.'))


def matches(keys: Iterable[str]) -> bool:
    """Tell a CMT checkpoint by its first position bias."""
    return 'relative_pos_a' in keys


def convert(state_dict: Mapping[str, Tensor]) -> Converted:
    """Rename the tensors, and tell arch and image size from their shapes.

    Raises:
        CheckpointError: If no arch of ours has these widths and depths, or the first position bias
            belongs to no image.
    """
    converted = Tensors()
    depths = [0, 0, 0, 0]
    for key, value in state_dict.items():
        block = re.match(r'blocks_([a-d])\.(\d+)\.', key)
        if block:
            stage = ord(block[1]) - ord('a')
            depths[stage] = max(depths[stage], int(block[2]) + 1)
        head = next((pair for pair in _HEADS if key.startswith(pair[0])), None)
        if head:
            converted[key.replace(*head, 1)] = value
            continue
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        converted[f'backbone.{key}'] = value

    table = converted['backbone.stages.0.position_bias.table']
    side = native_side(table.shape, num_heads=1, reduction=8)
    if not side:
        raise CheckpointError(
            f'relative_pos_a has shape {tuple(table.shape)} instead of (1, N, N / 64), where N are '
            'the pixels of a square map'
        )
    img_size = 4 * side
    local = converted.get('backbone.stages.0.blocks.0.local.weight')
    width = None if local is None else len(local)
    for arch, fields in ARCHS.items():
        if (tuple(depths), width) == (fields['depths'], fields['embed_dims'][0]):
            backbone: dict[str, Any] = dict(type='CMT', arch=arch)
            if img_size != fields['img_size']:
                backbone['img_size'] = img_size
            neck = dict(type='CMTNeck', in_channels=fields['embed_dims'][-1])
            return Converted(dict(converted), backbone, neck)
    raise CheckpointError(
        f'a CMT of unknown arch: depths {tuple(depths)}, width {width}; known: {sorted(ARCHS)}'
    )
