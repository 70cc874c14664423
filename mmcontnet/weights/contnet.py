"""Key map of the ConTNet authors' checkpoints."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from ..backbones.contnet import ARCHS, PATCH_SIZES
from ..errors import CheckpointError
from .key_map import KeyMap, renumber


def _flatten_encoding(value: Tensor, name: str) -> Tensor:
    """(1, P, 1, C / 2) for rows and (1, 1, P, C / 2) for columns -> (P, C / 2)."""
    if not name.endswith(('.row', '.column')):
        return value
    across = 2 if name.endswith('.row') else 1
    if value.dim() != 4 or value.shape[0] != 1 or value.shape[across] != 1:
        raise CheckpointError(f'the encoding has shape {tuple(value.shape)}')
    return value.flatten(0, -2)


def _options(
    keys: Collection[str], tensors: Mapping[str, Tensor], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Tell the arguments that leave a trace.

    Pre-norm and post-norm networks have the same tensors, and without patch-wise encodings no
    tensor depends on the patch sizes: ``pre_norm`` and then ``patch_sizes`` are for the user to
    set.
    """
    options: dict[str, Any] = {}
    pooled = {key[5] for key in keys if re.search(r'^layer\d\..*\.downsample\.conv\.conv\.', key)}
    if pooled and pooled != {'1', '2', '3'}:
        raise CheckpointError(
            f'shortcuts of layer {", ".join(sorted(pooled))} have a pooling layer; those of 1, 2 '
            'and 3 have it all (avg_down) or none'
        )
    if pooled:
        options['avg_down'] = True
    row, table = 'position.row', 'position_bias.relative_position_bias_table'
    first = 'backbone.stages.0.0.'
    if f'{first}encoders.0.{table}' in tensors:
        options['pos_encoding'] = 'relative'
    elif f'{first}encoders.0.{row}' not in tensors:
        options['pos_encoding'] = 'none'
    if f'{first}encoders.0.qkv.bias' not in tensors:
        options['qkv_bias'] = False
    conv = tensors.get(f'{first}conv.weight')
    if conv is not None and conv.dim() == 4 and 0 < conv.shape[1] < fields['embed_dims'][0]:
        options['conv_groups'] = fields['embed_dims'][0] // conv.shape[1]

    patch_sizes = []
    for stage, depth in enumerate(fields['depths']):
        sizes = []
        for block, encoder in itertools.product(range(depth), range(2)):
            prefix = f'backbone.stages.{stage}.{block}.encoders.{encoder}.'
            if f'{prefix}{row}' in tensors:
                sizes.append(len(tensors[f'{prefix}{row}']))
            elif f'{prefix}{table}' in tensors:
                sizes.append((math.isqrt(len(tensors[f'{prefix}{table}'])) + 1) // 2)
        pair = sizes[:2]
        patch_sizes.append(tuple(pair if sizes == pair * depth else sizes))
    if tuple(patch_sizes) == ((56, 56), (28, 28), (14, 14), (7, 7)):  # whole maps
        options['pos_placement'] = 'image'
    elif tuple(patch_sizes) != PATCH_SIZES and all(patch_sizes):
        options['patch_sizes'] = tuple(patch_sizes)
    return options


KEY_MAP = KeyMap(
    name='ConTNet',
    archs=ARCHS,
    signs=(r'^layer[1-4]\.ConTBlock\d+\.',),
    width='backbone.stem.conv.weight',
    dropped=r'\.relative_position_index$',  # follows from the patch size
    renames=(
        (r'^fc\.', 'head.fc.'),
        (r'^layer0\.conv\.conv\.', 'stem.conv.'),
        (r'^layer([1-4])\.ConTBlock', renumber('stages.{}.', -1)),
        (r'^(stages\.\d\.\d+)\.bn\.', r'\1.norm.'),
        (r'\.out_conv\.conv\.', '.conv.'),
        (r'\.downsample\.conv\.(conv\.)?', '.shortcut.'),
        (r'\.ste([12])\.', renumber('.encoders.{}.', -1)),
        (r'\.attn\.(qkv|proj)\.', r'.\1.'),
        (r'\.attn\.(relative_position_bias_table)$', r'.position_bias.\1'),
        (r'\.mlp\.(fc[12])\.', r'.\1.'),
        (r'\.pe\.0$', '.position.row'),
        (r'\.pe\.1$', '.position.column'),
    ),
    adapt=_flatten_encoding,
    options=_options,
)
