"""ACmix in PVT: On the Integration of Self-Attention and Convolution (arXiv:2111.14556).

Never released: written from the paper and from PVT's (arXiv:2102.12122).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmengine.registry import MODELS

from ..layers import PositionedPatchEmbedding, PVTBlock
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

_STRIDES = (4, 8, 16, 32)
_REDUCTIONS = (8, 4, 2, 1)
_FFN_RATIOS = (8, 8, 4, 4)
_PVT = dict(embed_dims=(64, 128, 320, 512), num_heads=(1, 2, 5, 8), img_size=224)

#: Table 1 of PVT's paper; ``img_size`` is the size of training, whose position encodings it owns.
ARCHS: dict[str, dict[str, Any]] = {
    't': dict(_PVT, depths=(2, 2, 2, 2)),
    's': dict(_PVT, depths=(3, 4, 6, 3)),
}


@MODELS.register_module()
class PVTACmix(HybridBackbone):
    """PVT with a convolution path beside its spatial-reduction attention.

    Outputs lie at strides 4/8/16/32 and have 64/128/320/512 channels. Inputs of any size work:
    position encodings are resized, and what reductions and patches do not divide is padded. There
    is no class token, which has no place in a map: classifiers pool, see
    :class:`mmcontnet.necks.PVTACmixNeck`.

    The paper does not say what the convolution path takes where keys and values are those of a
    reduced map. This is the reading that fits its counts best: 2.0 / 3.9 G MACs for
    PVT-ACmix-T / S, and 160 / 228 G for Semantic FPN with them, 158 / 225 G with PVT (table 2).
    Parameters, 13.40 / 24.82M, tell no readings apart: the paper has 13 / 25M, without a digit
    more, and PVT alone 13.23 / 24.49M.

    - Taken: each pixel's query, and the key and the value of its square of the reduced map.
      2.01 / 3.96 G; 159.5 / 227.9 G at 512 x 2048, 157.7 / 224.6 G without the path.
    - Queries alone, a third of the paper's 3N maps: 2.00 / 3.94 G; 159.2 / 227.3 G.
    - Keys and values of every pixel by the same weights: 2.19 / 4.38 G; 163.3 / 236.7 G.
    - All of the reduced map, the output enlarged: 1.94 / 3.83 G; 157.9 / 225.1 G.

    Args:
        arch: ``'t'``, ``'s'``, or a dict with the fields of ``ARCHS['t']``.
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
        arch: str | Mapping[str, Any] = 't',
        *,
        combine: str = 'rates',
        shift_init: str = 'shift',
        drop_path_rate: float = 0.0,
        **kwargs: Unpack[BackboneKwargs],
    ) -> None:
        fields = resolve_arch(arch, ARCHS, 'PVTACmix')
        embed_dims = fields['embed_dims']
        drop_paths = drop_path_rates(drop_path_rate, fields['depths'])

        def embedding(i: int, in_channels: int) -> PositionedPatchEmbedding:
            side = -(-fields['img_size'] // _STRIDES[i])
            return PositionedPatchEmbedding(in_channels, embed_dims[i], 2 if i else 4, side)

        def build_stem(in_channels: int) -> PositionedPatchEmbedding:
            return embedding(0, in_channels)

        def build_stage(i: int) -> SequentialStage:
            blocks = (
                PVTBlock(
                    embed_dims[i],
                    fields['num_heads'][i],
                    _REDUCTIONS[i],
                    _FFN_RATIOS[i] * embed_dims[i],
                    combine=combine,
                    drop_path_rate=drop_path,
                )
                for drop_path in drop_paths[i]
            )
            # The first embedding is the stem.
            return SequentialStage(*[embedding(i, embed_dims[i - 1])] if i else (), *blocks)

        super().__init__(build_stem, build_stage, embed_dims, _STRIDES, **kwargs)
        init_parameters(self, linear_layers=True, shift_init=shift_init)
