"""Key map of the authors' checkpoints of ACmix in Swin."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..backbones.swin_acmix import ARCHS
from ..errors import CheckpointError
from .family import Converted, Tensors

NAME = 'SwinACmix'

_RENAMES = (
    (r'^patch_embed\.proj\.', 'stem.conv.'),
    (r'^patch_embed\.norm\.', 'stem.norm.'),
    (r'^norm\.', 'stages.3.norm.'),
    # A stage's merging is the next one's here.
    (r'^layers\.(\d+)\.downsample\.', lambda match: f'stages.{int(match[1]) + 1}.merging.'),
    (r'^layers\.', 'stages.'),
    (r'\.mlp\.(fc[12])\.', r'.\1.'),
    (r'\.attn\.(relative_position_bias_table)$', r'.acmix.position_bias.\1'),
    (r'\.attn\.rate1$', '.acmix.sum.rate_attention'),
    (r'\.attn\.rate2$', '.acmix.sum.rate_convolution'),
    (r'\.attn\.fc\.', '.acmix.convolution.mix.'),
    (r'\.attn\.dep_conv\.', '.acmix.convolution.shift.'),
    (r'\.attn\.', '.acmix.'),
)
_TABLE = 'backbone.stages.0.blocks.0.acmix.position_bias.relative_position_bias_table'


def matches(keys: Iterable[str]) -> bool:
    """Tell a checkpoint by the convolution beside window attention."""
    return any(re.search(r'^layers\.\d+\.blocks\.\d+\.attn\.dep_conv\.', key) for key in keys)


def convert(state_dict: Mapping[str, Tensor]) -> Converted:
    """Rename the tensors, and tell arch and window size from their shapes.

    Raises:
        CheckpointError: If no arch of ours has these depths and widths.
    """
    converted = Tensors()
    depths = [0, 0, 0, 0]
    for key, value in state_dict.items():
        block = re.match(r'layers\.([0-3])\.blocks\.(\d+)\.', key)
        if block:
            stage = int(block[1])
            depths[stage] = max(depths[stage], int(block[2]) + 1)
        if key.endswith(('.relative_position_index', '.attn_mask')):
            continue  # follow from the sizes of windows and maps
        if key.startswith('head.'):
            converted[key.replace('head.', 'head.fc.')] = value
            continue
        if key.endswith('.attn.fc.weight'):
            value = value.flatten(1)  # a linear layer of ours
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        converted[f'backbone.{key}'] = value

    width = len(state_dict.get('patch_embed.proj.weight', ()))
    for arch, fields in ARCHS.items():
        if (tuple(depths), width) == (fields['depths'], fields['embed_dims'][0]):
            backbone: dict[str, Any] = dict(type='SwinACmix', arch=arch)
            offsets = math.isqrt(len(converted.get(_TABLE, ())))  # 2 sides of a window less 1
            if offsets % 2 and offsets != 13:
                backbone['window_size'] = (offsets + 1) // 2
            return Converted(dict(converted), backbone)
    raise CheckpointError(
        f'a SwinACmix of unknown arch: depths {tuple(depths)}, width {width}; '
        f'known: {sorted(ARCHS)}'
    )
