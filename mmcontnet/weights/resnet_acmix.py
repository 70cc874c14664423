"""Key map of the authors' checkpoints of ACmix in ResNet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from ..backbones.resnet_acmix import ARCHS
from .key_map import KeyMap, flatten_linear, renumber

_NUM_HEADS = 4  # of the released networks


def _options(
    keys: Collection[str], tensors: Mapping[str, Tensor], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Tell the number of heads; the side of attention's window leaves no trace."""
    groups = tensors.get('backbone.stages.0.0.layer.0.convolution.mix.weight')
    if groups is None or groups.shape[-1] == 3 * _NUM_HEADS:
        return {}
    return dict(num_heads=groups.shape[-1] // 3)


KEY_MAP = KeyMap(
    name='ResNetACmix',
    archs=ARCHS,
    signs=(r'\.conv2\.conv_p\.',),
    width='backbone.stages.0.0.conv1.weight',
    renames=(
        (r'^fc\.', 'head.fc.'),
        (r'^conv1\.', 'stem.convs.0.'),
        (r'^bn1\.', 'stem.norms.0.'),
        (r'^layer([1-4])\.', renumber('stages.{}.', -1)),
        (r'\.bn([13])\.', r'.norm\1.'),
        (r'\.bn2\.', '.layer.1.'),
        (r'\.downsample\.', '.shortcut.'),
        (r'\.conv2\.conv_p\.', '.layer.0.position.'),
        (r'\.conv2\.fc\.', '.layer.0.convolution.mix.'),
        (r'\.conv2\.dep_conv\.', '.layer.0.convolution.shift.'),
        (r'\.conv2\.rate1$', '.layer.0.sum.rate_attention'),
        (r'\.conv2\.rate2$', '.layer.0.sum.rate_convolution'),
        (r'\.conv2\.conv([123])\.(weight|bias)$', r'.layer.0.qkv.\2[\1]'),
    ),
    adapt=flatten_linear,
    options=_options,
)
