"""CoTNet: Contextual Transformer Networks for Visual Recognition (arXiv:2107.12292).

Written from the paper and from what the authors' released networks compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import check_choice
from ..layers import CONTEXTS, Bottleneck, CoTLayer, ResNetStem, SplitAttention
from .base import (
    NUM_STAGES,
    BackboneKwargs,
    HybridBackbone,
    SequentialStage,
    drop_path_rates,
    init_parameters,
    resolve_arch,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

_RESNET = dict(
    out_channels=(256, 512, 1024, 2048),
    mid_channels=(64, 128, 256, 512),
    layers=('cot', 'cot', 'cot', 'cot'),
    groups=1,
    key_groups=4,
    stem_channels=64,
    deep=False,
    blur=False,
)
_RESNEXT = dict(_RESNET, mid_channels=(96, 192, 384, 768), groups=2, key_groups=8)
_RESNET_D = dict(_RESNET, layers=('split', 'split', 'alternate', 'cot'), deep=True)

#: Tables 1 and 2 of the paper. ``layers``: what takes the place of a stage's 3x3 convolutions:
#: ``'cot'``; ``'split'`` attention; both, ``'alternate'``, beginning with a CoT layer; ``'conv'``
#: keeps them. ``deep``: ResNet-D's stem and shortcuts, without max-pool. ``blur``: blocks stride by
#: a blur after their layer, as in the released SE-CoTNetD-152; the paper does not say so.
ARCHS: dict[str, dict[str, Any]] = {
    '50': dict(_RESNET, depths=(3, 4, 6, 3)),
    '101': dict(_RESNET, depths=(3, 4, 23, 3)),
    'next50': dict(_RESNEXT, depths=(3, 4, 6, 3)),
    'next101': dict(_RESNEXT, depths=(3, 4, 23, 3)),
    'se-d50': dict(_RESNET_D, depths=(3, 4, 6, 3)),
    'se-d101': dict(_RESNET_D, depths=(3, 4, 23, 3), stem_channels=128),
    'se-d152': dict(_RESNET_D, depths=(3, 8, 36, 3), stem_channels=128, blur=True),
}


class BlurPool(nn.Module):
    """Stride 2 after a 3x3 binomial filter of every channel (Zhang 2019, arXiv:1904.11486)."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer('kernel', row[:, None] * row, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
        # One pixel has nothing to be reflected.
        x = F.pad(x, [1] * 4, 'reflect' if min(x.shape[2:]) > 1 else 'replicate')
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return F.conv2d(x, kernel, stride=2, groups=x.shape[1])


@MODELS.register_module()
class CoTNet(HybridBackbone):
    """CoTNet, CoTNeXt and SE-CoTNetD: ResNets with contextual transformer layers.

    Outputs lie at strides 4/8/16/32 and have 256/512/1024/2048 channels. Inputs of any size work.

    Args:
        arch: ``'50'``, ``'101'``, ``'next50'``, ``'next101'``, ``'se-d50'``, ``'se-d101'``,
            ``'se-d152'``, or a dict with the fields of ``ARCHS['50']``.
        context: What CoT layers return, see :class:`CoTLayer` (table 5).
        cot_stages: Stages, 0-3, that have CoT layers in place of the 3x3 convolutions, or of split
            attention in SE-CoTNetD (table 6); None is the arch's own choice.
        drop_path_rate: Stochastic depth of the last block; the others' rise linearly from 0.
        zero_init_residual: Whether the last norm of each bottleneck starts at zero, as in the
            released network.
        **kwargs: The arguments of all backbones, see :class:`HybridBackbone`.

    Raises:
        ValueError: For a value outside of what is described above.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = '50',
        *,
        context: str = 'full',
        cot_stages: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        zero_init_residual: bool = True,
        **kwargs: Unpack[BackboneKwargs],
    ) -> None:
        fields = resolve_arch(arch, ARCHS, 'CoTNet')
        check_choice('context', context, CONTEXTS)
        layers, deep = fields['layers'], fields['deep']
        if cot_stages is not None:
            if any(stage not in range(NUM_STAGES) for stage in cot_stages):
                raise ValueError(f'cot_stages must be stages in 0..3, got {cot_stages!r}')
            other = 'split' if deep else 'conv'
            layers = ['cot' if i in cot_stages else other for i in range(NUM_STAGES)]

        cot = dict(groups=fields['groups'], key_groups=fields['key_groups'], context=context)
        channels = fields['out_channels']
        drop_paths = drop_path_rates(drop_path_rate, fields['depths'])

        def build_stem(in_channels: int) -> ResNetStem:
            return ResNetStem(in_channels, fields['stem_channels'], deep)

        def build_stage(i: int) -> SequentialStage:
            width = channels[i - 1] if i else fields['stem_channels']
            mid = fields['mid_channels'][i]
            blocks = []
            for j, drop_path in enumerate(drop_paths[i]):
                kind = ('cot', 'split')[j % 2] if layers[i] == 'alternate' else layers[i]
                stride = 2 if j == 0 and (i > 0 or deep) else 1
                blocks.append(
                    Bottleneck(
                        channels[i] if j else width,
                        mid,
                        channels[i],
                        **_layer(kind, mid, stride, fields['blur'], cot),
                        stride=stride,
                        pool_shortcut=deep,
                        drop_path_rate=drop_path,
                    )
                )
            return SequentialStage(*blocks)

        super().__init__(build_stem, build_stage, channels, (4, 8, 16, 32), **kwargs)
        init_parameters(self, convolutions=True, zero_init_residual=zero_init_residual)


def _layer(
    kind: str, channels: int, stride: int, blur: bool, cot: Mapping[str, Any]
) -> dict[str, Any]:
    """Make what takes the place of a 3x3 convolution, and what strides before or after it."""
    after = BlurPool() if blur and stride > 1 else None
    if after is not None:
        stride = 1
    if kind == 'cot':
        before = nn.AvgPool2d(3, stride, padding=1) if stride > 1 else None
        return dict(layer=CoTLayer(channels, **cot), before=before, after=after)
    if kind == 'split':
        return dict(layer=SplitAttention(channels, stride), after=after)
    conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
    layer = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
    return dict(layer=layer, after=after)
