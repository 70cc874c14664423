"""Key map of the CMT authors' checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from ..backbones.cmt import ARCHS
from ..errors import CheckpointError
from ..layers.position_bias import native_side
from .key_map import KeyMap, renumber


def _options(
    keys: Collection[str], tensors: Mapping[str, Tensor], fields: Mapping[str, Any]
) -> dict[str, Any]:
    table = tensors['backbone.stages.0.position_bias.table']
    side = native_side(table.shape, num_heads=1, reduction=8)
    if not side:
        raise CheckpointError(
            f'relative_pos_a has shape {tuple(table.shape)} instead of (1, N, N / 64), where N are '
            'the pixels of a square map'
        )
    return {} if 4 * side == fields['img_size'] else dict(img_size=4 * side)


KEY_MAP = KeyMap(
    name='CMT',
    archs=ARCHS,
    signs=(r'^relative_pos_a$',),
    width='backbone.stages.0.blocks.0.local.weight',
    renames=(
        (r'^_fc\.', 'neck.conv.'),
        (r'^_bn\.', 'neck.norm.'),
        (r'^head\.', 'head.fc.'),
        (r'^relative_pos_([a-d])$', r'stages.\1.position_bias.table'),
        (r'^stem_conv([1-3])\.', renumber('stem.convs.{}.', -1)),
        (r'^stem_norm([1-3])\.', renumber('stem.norms.{}.', -1)),
        (r'^patch_embed_([a-d])\.proj\.', r'stages.\1.aggregation.conv.'),
        (r'^patch_embed_([a-d])\.norm\.', r'stages.\1.aggregation.norm.'),
        (r'^blocks_([a-d])\.', r'stages.\1.blocks.'),
        (r'(blocks\.\d+)\.proj\.', r'\1.local.'),
        (r'\.attn\.sr\.', '.attention.reduce.'),
        (r'\.attn\.', '.attention.'),
        (r'\.mlp\.conv1\.0\.', '.ffn.expand.'),
        (r'\.mlp\.conv1\.2\.', '.ffn.expand_norm.'),
        (r'\.mlp\.proj\.', '.ffn.depthwise.'),
        (r'\.mlp\.proj_bn\.', '.ffn.depthwise_norm.'),
        (r'\.mlp\.conv2\.0\.', '.ffn.project.'),
        (r'\.mlp\.conv2\.1\.', '.ffn.project_norm.'),
        (r'^stages\.([a-d])\.', lambda match: f'stages.{"abcd".index(match[1])}.'),
    ),
    options=_options,
    neck=lambda fields: dict(type='CMTNeck', in_channels=fields['embed_dims'][-1]),
)
