"""ACmix in SAN: On the Integration of Self-Attention and Convolution (arXiv:2111.14556).

Never released: written from the paper and from SAN's (Zhao et al., Exploring Self-attention for
Image Recognition, CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmengine.registry import MODELS
from torch import nn

from ..layers import SANBlock
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

_STEM_KERNEL_SIZE = 3
_KERNEL_SIZE = 7
_SAN = dict(stem_channels=64, channels=(256, 512, 1024, 2048))

#: Table 1 of SAN's paper. ``stem_depth``: blocks at stride 2.
ARCHS: dict[str, dict[str, Any]] = {
    '10': dict(_SAN, stem_depth=2, depths=(1, 2, 4, 1)),
    '15': dict(_SAN, stem_depth=3, depths=(2, 3, 5, 2)),
    '19': dict(_SAN, stem_depth=3, depths=(3, 4, 6, 3)),
}


def _stage(
    in_channels: int, channels: int, drop_paths: Sequence[float], **kwargs: Any
) -> SequentialStage:
    """SAN's transition and blocks, and the norm and activation after them."""
    return SequentialStage(
        nn.Sequential(
            # Like a convolution with padding, it keeps the last pixel of an odd side.
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(in_channels, channels, 1, bias=False),
        ),
        *(SANBlock(channels, drop_path_rate=rate, **kwargs) for rate in drop_paths),
        nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True)),
    )


@MODELS.register_module()
class SANACmix(HybridBackbone):
    """SAN with a convolution path beside its patchwise self-attention.

    SAN has five stages, at strides 2 to 32. The first of them, with 64 channels and windows of 3x3
    pixels, belongs to the stem; the others have 7x7. Outputs lie at strides 4/8/16/32 and have
    256/512/1024/2048 channels. Inputs of any size work.

    The paper says no more of SAN-ACmix than its equation 18. This is the reading that fits its
    counts best: 12.1 / 16.6 / 21.2M parameters for SAN-ACmix-10 / 15 / 19, and 233 G MACs
    for RetinaNet with the last, 229 G without the convolution path (table 3).

    - Taken: of a block's C channels, queries and keys have C / 16, one group of maps each, and the
      values C / 4, four groups; one shift convolution to C / 4. 11.99 / 16.41 / 20.83M; 233.0 G at
      800 x 1333, 229.0 G without the path.
    - With two shift convolutions: 12.15 / 16.65 / 21.14M, but 236.4 G. The paper's parameters seem
      to count the one twice, as they do in ResNet-ACmix.
    - With queries and keys as wide as the values: 18.1M for SAN-ACmix-10.

    At 224 x 224 it has 1.89 / 2.63 / 3.32 G MACs, and the paper 1.9 / 2.7 / 3.4. The
    difference is the host's: SAN alone comes to 1.79 / 2.48 / 3.13 G of convolutions and
    aggregation, where its paper has 1.9 / 2.6 / 3.3.

    Args:
        arch: ``'10'``, ``'15'``, ``'19'``, or a dict with the fields of ``ARCHS['10']``.
        combine: How the paths are added up, see :class:`mmcontnet.layers.PathSum` (table 6).
        shift_init: How the shift convolutions start: ``'shift'``, ``'fixed'`` (shifts that are not
            trained) or ``'random'`` (table 7).
        drop_path_rate: Stochastic depth of the last block; the others' rise linearly from 0.
        **kwargs: The arguments of all backbones, see :class:`HybridBackbone`.

    Raises:
        ValueError: For a value outside of what is described above.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = '10',
        *,
        combine: str = 'rates',
        shift_init: str = 'shift',
        drop_path_rate: float = 0.0,
        **kwargs: Unpack[BackboneKwargs],
    ) -> None:
        fields = resolve_arch(arch, ARCHS, 'SANACmix')
        width, channels = fields['stem_channels'], fields['channels']
        stem_paths, *paths = drop_path_rates(
            drop_path_rate, (fields['stem_depth'], *fields['depths'])
        )
        widths = (width, *channels)

        def build_stem(in_channels: int) -> SequentialStage:
            # A stage, so that `with_cp` recomputes its blocks: at stride 2 they take the most
            # memory.
            return SequentialStage(
                nn.Sequential(
                    nn.Conv2d(in_channels, width, 1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ),
                *_stage(width, width, stem_paths, kernel_size=_STEM_KERNEL_SIZE, combine=combine),
            )

        def build_stage(i: int) -> SequentialStage:
            return _stage(
                widths[i], widths[i + 1], paths[i], kernel_size=_KERNEL_SIZE, combine=combine
            )

        super().__init__(build_stem, build_stage, channels, (4, 8, 16, 32), **kwargs)
        init_parameters(self, shift_init=shift_init)
