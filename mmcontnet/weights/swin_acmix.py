"""Key map of the authors' checkpoints of ACmix in Swin."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from ..backbones.swin_acmix import ARCHS
from .key_map import KeyMap, flatten_linear, renumber

_TABLE = 'backbone.stages.0.blocks.0.acmix.position_bias.relative_position_bias_table'


def _options(
    keys: Collection[str], tensors: Mapping[str, Tensor], fields: Mapping[str, Any]
) -> dict[str, Any]:
    offsets = math.isqrt(len(tensors.get(_TABLE, ())))  # 2 sides of a window less 1
    return dict(window_size=(offsets + 1) // 2) if offsets % 2 and offsets != 13 else {}


KEY_MAP = KeyMap(
    name='SwinACmix',
    archs=ARCHS,
    signs=(r'^layers\.\d+\.blocks\.\d+\.attn\.dep_conv\.',),
    width='backbone.stem.conv.weight',
    dropped=r'\.(relative_position_index|attn_mask)$',  # follow from the windows' and maps' sizes
    renames=(
        (r'^head\.', 'head.fc.'),
        (r'^patch_embed\.proj\.', 'stem.conv.'),
        (r'^patch_embed\.norm\.', 'stem.norm.'),
        (r'^norm\.', 'stages.3.norm.'),
        # A stage's merging is the next one's here.
        (r'^layers\.(\d+)\.downsample\.', renumber('stages.{}.merging.', 1)),
        (r'^layers\.', 'stages.'),
        (r'\.mlp\.(fc[12])\.', r'.\1.'),
        (r'\.attn\.(relative_position_bias_table)$', r'.acmix.position_bias.\1'),
        (r'\.attn\.rate1$', '.acmix.sum.rate_attention'),
        (r'\.attn\.rate2$', '.acmix.sum.rate_convolution'),
        (r'\.attn\.fc\.', '.acmix.convolution.mix.'),
        (r'\.attn\.dep_conv\.', '.acmix.convolution.shift.'),
        (r'\.attn\.', '.acmix.'),
    ),
    adapt=flatten_linear,
    options=_options,
)
