"""ACmix in ResNet: On the Integration of Self-Attention and Convolution (arXiv:2111.14556).

Written from the paper and from what the authors' released network computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmengine.registry import MODELS
from torch import nn

from ..layers import Bottleneck, ResNetStem, SlidingACmix
from .base import (
    BackboneKwargs,
    HybridBackbone,
    SequentialStage,
    drop_path_rates,
    init_parameters,
    resolve_arch,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

_STEM_CHANNELS = 64
_RESNET = dict(out_channels=(256, 512, 1024, 2048), mid_channels=(64, 128, 256, 512))

#: Figure 4a of the paper.
ARCHS: dict[str, dict[str, Any]] = {
    '26': dict(_RESNET, depths=(1, 2, 4, 1)),
    '38': dict(_RESNET, depths=(2, 3, 5, 2)),
    '50': dict(_RESNET, depths=(3, 4, 6, 3)),
}


@MODELS.register_module()
class ResNetACmix(HybridBackbone):
    """ResNet with ACmix in the place of its 3x3 convolutions.

    Outputs lie at strides 4/8/16/32 and have 256/512/1024/2048 channels. Inputs of any size work.

    The shift convolutions start from shifts, as in the paper (table 7); the released network starts
    them at random (``shift_init='random'``). The paper's parameters (10.6, 14.6 and 18.6M) seem to
    count their weights twice.

    Args:
        arch: ``'26'``, ``'38'``, ``'50'``, or a dict with the fields of ``ARCHS['50']``.
        kernel_att: Side of attention's window in pixels of the map, odd.
        num_heads: Attention heads in all stages.
        combine: How the paths are added up, see :class:`mmcontnet.layers.PathSum` (table 6).
        shift_init: How the shift convolutions start: ``'shift'``, ``'fixed'`` (shifts that are not
            trained) or ``'random'`` (table 7).
        drop_path_rate: Stochastic depth of the last block; the others' rise linearly from 0.
        zero_init_residual: Whether the last norm of each bottleneck starts at zero; it does not in
            the released network.
        **kwargs: The arguments of all backbones, see :class:`HybridBackbone`.

    Raises:
        ValueError: For a value outside of what is described above.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = '50',
        *,
        kernel_att: int = 7,
        num_heads: int = 4,
        combine: str = 'rates',
        shift_init: str = 'shift',
        drop_path_rate: float = 0.0,
        zero_init_residual: bool = False,
        **kwargs: Unpack[BackboneKwargs],
    ) -> None:
        fields = resolve_arch(arch, ARCHS, 'ResNetACmix')
        if not isinstance(kernel_att, int) or kernel_att < 1 or kernel_att % 2 == 0:
            raise ValueError(f'kernel_att must be a positive odd number, got {kernel_att!r}')
        drop_paths = drop_path_rates(drop_path_rate, fields['depths'])
        channels = fields['out_channels']

        def build_stem(in_channels: int) -> ResNetStem:
            return ResNetStem(in_channels, _STEM_CHANNELS, deep=False)

        def build_stage(i: int) -> SequentialStage:
            width = channels[i - 1] if i else _STEM_CHANNELS
            mid = fields['mid_channels'][i]
            blocks = []
            for j, drop_path in enumerate(drop_paths[i]):
                stride = 2 if j == 0 and i > 0 else 1
                acmix = SlidingACmix(
                    mid,
                    num_heads=num_heads,
                    kernel_size=kernel_att,
                    stride=stride,
                    combine=combine,
                )
                layer = nn.Sequential(acmix, nn.BatchNorm2d(mid), nn.ReLU(inplace=True))
                blocks.append(
                    Bottleneck(
                        channels[i] if j else width,
                        mid,
                        channels[i],
                        layer,
                        stride=stride,
                        drop_path_rate=drop_path,
                    )
                )
            return SequentialStage(*blocks)

        super().__init__(build_stem, build_stage, channels, (4, 8, 16, 32), **kwargs)
        init_parameters(
            self, convolutions=True, shift_init=shift_init, zero_init_residual=zero_init_residual
        )
