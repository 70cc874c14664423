"""Key map of the ConTNet authors' checkpoints."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..backbones.contnet import ARCHS, PATCH_SIZES
from ..errors import CheckpointError
from .family import Converted, Tensors

NAME = 'ConTNet'

_BLOCK = re.compile(r'layer([1-4])\.ConTBlock(\d+)\.(.+)')
_POOLED_SHORTCUT = re.compile(r'layer([1-4])\.ConTBlock\d+\.downsample\.conv\.conv\.')
_RENAMES = (
    (re.compile(r'^bn\.'), 'norm.'),
    (re.compile(r'^out_conv\.conv\.'), 'conv.'),
    (re.compile(r'^downsample\.conv\.(conv\.)?'), 'shortcut.'),
    (re.compile(r'^ste([12])\.'), lambda match: f'encoders.{int(match[1]) - 1}.'),
    (re.compile(r'\.attn\.(qkv|proj)\.'), r'.\1.'),
    (re.compile(r'\.attn\.(relative_position_bias_table)$'), r'.position_bias.\1'),
    (re.compile(r'\.mlp\.(fc[12])\.'), r'.\1.'),
    (re.compile(r'\.pe\.0$'), '.position.row'),
    (re.compile(r'\.pe\.1$'), '.position.column'),
)


def matches(keys: Iterable[str]) -> bool:
    """Tell a ConTNet checkpoint by its block names."""
    return any(_BLOCK.match(key) for key in keys)


def convert(state_dict: Mapping[str, Tensor]) -> Converted:
    """Rename the tensors, and tell the network from their names and shapes.

    Not all can be told: pre-norm and post-norm networks have the same tensors, and without
    patch-wise encodings no tensor depends on the patch sizes. ``pre_norm`` and then ``patch_sizes``
    are for the user to set.

    Raises:
        CheckpointError: If no arch of ours has these depths and widths, or tensors contradict each
            other.
    """
    converted = Tensors()
    depths = [0, 0, 0, 0]
    pooled = {block[1] for key in state_dict if (block := _POOLED_SHORTCUT.match(key))}
    if pooled and pooled != {'1', '2', '3'}:
        raise CheckpointError(
            f'only layers {sorted(pooled)} of 1, 2 and 3 pool before the shortcut'
        )
    for key, value in state_dict.items():
        block = _BLOCK.match(key)
        if block:
            stage, index, name = int(block[1]) - 1, int(block[2]), block[3]
            depths[stage] = max(depths[stage], index + 1)
            if name.endswith('.relative_position_index'):
                continue  # follows from the patch size
            for pattern, replacement in _RENAMES:
                name = pattern.sub(replacement, name)
            if name.endswith(('.row', '.column')):
                # (1, P, 1, C / 2) and (1, 1, P, C / 2)
                across = 2 if name.endswith('.row') else 1
                if value.dim() != 4 or value.shape[0] != 1 or value.shape[across] != 1:
                    raise CheckpointError(f'{key} has shape {tuple(value.shape)}')
                value = value.flatten(0, -2)
            name = f'backbone.stages.{stage}.{index}.{name}'
        elif key.startswith('fc.'):
            name = f'head.{key}'
        else:
            name = key.replace('layer0.conv.conv', 'backbone.stem.conv')
        converted[name] = value
    stem = converted.get('backbone.stem.conv.weight')
    width = None if stem is None else stem.shape[0]
    for arch, fields in ARCHS.items():
        if (tuple(depths), width) == (fields['depths'], fields['embed_dims'][0]):
            backbone = dict(type='ConTNet', arch=arch, **_options(converted, fields))
            if pooled:
                backbone['avg_down'] = True
            return Converted(dict(converted), backbone)
    raise CheckpointError(
        f'a ConTNet of unknown arch: depths {tuple(depths)}, width {width}; known: {sorted(ARCHS)}'
    )


def _options(converted: Mapping[str, Tensor], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Tell the backbone's arguments that are not the defaults from our names and their shapes."""
    options: dict[str, Any] = {}
    row, table = 'position.row', 'position_bias.relative_position_bias_table'
    first = 'backbone.stages.0.0.'
    if f'{first}encoders.0.{table}' in converted:
        options['pos_encoding'] = 'relative'
    elif f'{first}encoders.0.{row}' not in converted:
        options['pos_encoding'] = 'none'
    if f'{first}encoders.0.qkv.bias' not in converted:
        options['qkv_bias'] = False
    conv = converted.get(f'{first}conv.weight')
    if conv is not None and conv.dim() == 4 and 0 < conv.shape[1] < fields['embed_dims'][0]:
        options['conv_groups'] = fields['embed_dims'][0] // conv.shape[1]

    patch_sizes = []
    for stage, depth in enumerate(fields['depths']):
        sizes = []
        for block, encoder in itertools.product(range(depth), range(2)):
            prefix = f'backbone.stages.{stage}.{block}.encoders.{encoder}.'
            if f'{prefix}{row}' in converted:
                sizes.append(len(converted[f'{prefix}{row}']))
            elif f'{prefix}{table}' in converted:
                sizes.append((math.isqrt(len(converted[f'{prefix}{table}'])) + 1) // 2)
        pair = sizes[:2]
        patch_sizes.append(tuple(pair if sizes == pair * depth else sizes))
    if tuple(patch_sizes) == ((56, 56), (28, 28), (14, 14), (7, 7)):  # whole maps
        options['pos_placement'] = 'image'
    elif tuple(patch_sizes) != PATCH_SIZES and all(patch_sizes):
        options['patch_sizes'] = tuple(patch_sizes)
    return options
