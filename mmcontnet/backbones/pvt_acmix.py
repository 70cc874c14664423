"""ACmix in PVT: On the Integration of Self-Attention and Convolution (arXiv:2111.14556).

Never released: written from the paper and from PVT's (arXiv:2102.12122).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ..layers import COMBINATIONS, PositionedPatchEmbedding, PVTBlock
from .base import HybridBackbone, check_choice, drop_path_rates, resolve_arch

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
    reduced map. This is the reading that fits its counts best: 2.0 / 3.9 G multiply-adds for
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
        drop_path_rate: Stochastic depth of the last block; the others' rise linearly from 0.
        in_channels: See :class:`HybridBackbone`, as for all that follow.
        out_indices: Stages to return.
        frozen_stages: Stages to freeze.
        norm_eval: Without effect: there is no BatchNorm.
        with_cp: Recompute blocks in backward.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: For a value outside of what is described above.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 't',
        *,
        combine: str = 'rates',
        drop_path_rate: float = 0.0,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (3,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        fields = resolve_arch(arch, ARCHS, 'PVTACmix')
        check_choice('combine', combine, COMBINATIONS)
        embed_dims, depths = fields['embed_dims'], fields['depths']
        drop_paths = drop_path_rates(drop_path_rate, depths)
        embeddings, stages = [], []
        for i in range(self.last_stage + 1):
            embeddings.append(
                PositionedPatchEmbedding(
                    embed_dims[i - 1] if i else in_channels,
                    embed_dims[i],
                    2 if i else _STRIDES[0],
                    -(-fields['img_size'] // _STRIDES[i]),
                )
            )
            blocks = [
                PVTBlock(
                    embed_dims[i],
                    fields['num_heads'][i],
                    _REDUCTIONS[i],
                    _FFN_RATIOS[i] * embed_dims[i],
                    combine=combine,
                    drop_path_rate=rate,
                )
                for rate in drop_paths[i]
            ]
            # The first embedding is the stem.
            stages.append(nn.Sequential(*embeddings[i:] if i else (), *blocks))
        self.assemble(embeddings[0], stages, embed_dims, _STRIDES)
        for name, module in self.named_modules():
            if not name.endswith('.mix'):
                _init_parameters(module)


def _init_parameters(module: nn.Module) -> None:
    """Truncated normal of attention's and the FFN's linear layers, as in PVT; norms are 1 and 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
