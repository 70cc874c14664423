"""Key map of the CoTNet authors' checkpoints."""

from __future__ import annotations

from ..backbones.cotnet import ARCHS
from .key_map import KeyMap, Rename, renumber


def _key_map(deep: bool, *renames: Rename) -> KeyMap:
    return KeyMap(
        name='CoTNet',
        archs={arch: fields for arch, fields in ARCHS.items() if fields['deep'] == deep},
        signs=(r'\.conv2\.key_embed\.0\.', r'^conv1\.0\.' if deep else r'^conv1\.weight$'),
        width='backbone.stages.0.0.conv1.weight',
        dropped=r'\.filt$',  # the fixed filter of a blur
        renames=(
            (r'^fc\.', 'head.fc.'),
            *renames,
            (r'^layer([1-4])\.', renumber('stages.{}.', -1)),
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
        ),
    )


KEY_MAPS = (
    _key_map(
        False,
        (r'^conv1\.', 'stem.convs.0.'),
        (r'^bn1\.', 'stem.norms.0.'),
        (r'\.downsample\.', '.shortcut.'),
    ),
    # Three convolutions and norms, and shortcuts that begin with a pool.
    _key_map(
        True,
        (r'^conv1\.([036])\.', lambda match: f'stem.convs.{int(match[1]) // 3}.'),
        (r'^conv1\.([14])\.', lambda match: f'stem.norms.{int(match[1]) // 3}.'),
        (r'^bn1\.', 'stem.norms.2.'),
        (r'\.downsample\.([12])\.', renumber('.shortcut.{}.', -1)),
    ),
)
