"""ACmix in Swin: On the Integration of Self-Attention and Convolution (arXiv:2111.14556).

Written from the paper, Swin's (arXiv:2103.14030), and from what the authors' released network
computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import AdaptiveLoading, SwinACmixBlock, shift_mask
from ..ops import pad_to_multiple
from .base import (
    NUM_STAGES,
    BackboneKwargs,
    HybridBackbone,
    Stage,
    drop_path_rates,
    init_parameters,
    resolve_arch,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

_SWIN = dict(embed_dims=(96, 192, 384, 768), num_heads=(3, 6, 12, 24))

#: Figure 4d of the paper; Swin's (its section 3.3).
ARCHS: dict[str, dict[str, Any]] = {
    't': dict(_SWIN, depths=(2, 2, 6, 2)),
    's': dict(_SWIN, depths=(2, 2, 18, 2)),
}


class PatchEmbedding(nn.Module):
    """4x4 convolution of stride 4 and LayerNorm; images are padded at the right and the bottom.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of the first stage.
    """

    def __init__(self, in_channels: int, embed_dims: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, embed_dims, 4, stride=4)
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, C, ceil(H / 4), ceil(W / 4))."""
        x = self.conv(pad_to_multiple(x, 4))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchMerging(nn.Module):
    """LayerNorm and linear layer over the four pixels of a 2x2 square; odd sides are padded.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the stage.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_channels)
        self.reduction = nn.Linear(4 * in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / 2), ceil(W / 2))."""
        x = pad_to_multiple(x, 2).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        # Column by column, as released.
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(b, h // 2, w // 2, 4 * c))).permute(0, 3, 1, 2)


class OutputNorm(nn.LayerNorm):
    """LayerNorm over the channels of an output."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SwinACmixStage(AdaptiveLoading, Stage):
    """Patch merging (but for the first stage) and blocks.

    Checkpoints of classifiers have the norm of the last stage only. The others then start with
    weight 1 and bias 0, as Swin's do for dense prediction, which is logged.

    Args:
        merging: Before the blocks.
        blocks: The stage's blocks.
        norm: Applied by the backbone to its output; the next stage gets the map without it. As the
            call of the stage does not use it, FSDP needs it as a unit of its own.
        norm_optional: Whether checkpoints of the stage may lack the norm.
        window_size: Side of attention's windows in pixels of the map.
    """

    def __init__(
        self,
        merging: nn.Module,
        blocks: Sequence[SwinACmixBlock],
        norm: OutputNorm,
        norm_optional: bool,
        window_size: int,
    ) -> None:
        super().__init__()
        self.merging = merging
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.norm_optional = norm_optional
        self.window_size = window_size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'), halved by the merging; without the norm."""
        x = self.merging(x)
        mask = shift_mask(x, self.window_size)
        for block in self.blocks:
            x = self.run(block, x, mask)
        return x

    def adapt_weights(self, weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Add the norm's weight and bias where a checkpoint of the stage has neither."""
        norm: object = self.norm  # None where the stage is no output
        names = (f'{prefix}norm.weight', f'{prefix}norm.bias')
        if (
            not self.norm_optional
            or not isinstance(norm, OutputNorm)
            or not any(key.startswith(prefix) for key in weights)
            or any(name in weights for name in names)
        ):
            return {}
        print_log(f'{names[0]} and bias are not in the checkpoint: 1 and 0', 'current')
        return dict(
            zip(names, (torch.ones_like(norm.weight), torch.zeros_like(norm.bias)), strict=True)
        )


@MODELS.register_module()
class SwinACmix(HybridBackbone):
    """Swin with ACmix in the place of window attention.

    Outputs lie at strides 4/8/16/32 and have 96/192/384/768 channels, each with a LayerNorm of its
    own (in a checkpoint of a classifier only the last is to be found; the others start as 1 and 0).

    Inputs of any size work. Maps are padded to whole windows as in Swin for detection: zeros after
    the norm, which attention takes as pixels of their own, and which the convolution takes as its
    border. Windows are not shifted along a side that has one window only. Convolutions see the
    shifted map, as in the released network: where nothing is padded one end lies beside the other.

    Args:
        arch: ``'t'``, ``'s'``, or a dict with the fields of ``ARCHS['t']``.
        window_size: Side of attention's windows in pixels of the map.
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
        window_size: int = 7,
        combine: str = 'rates',
        shift_init: str = 'shift',
        drop_path_rate: float = 0.0,
        **kwargs: Unpack[BackboneKwargs],
    ) -> None:
        fields = resolve_arch(arch, ARCHS, 'SwinACmix')
        if not isinstance(window_size, int) or window_size < 1:
            raise ValueError(f'window_size must be a positive int, got {window_size!r}')
        embed_dims = fields['embed_dims']
        drop_paths = drop_path_rates(drop_path_rate, fields['depths'])

        def build_stem(in_channels: int) -> PatchEmbedding:
            return PatchEmbedding(in_channels, embed_dims[0])

        def build_stage(i: int) -> SwinACmixStage:
            heads = fields['num_heads'][i]
            blocks = [
                SwinACmixBlock(embed_dims[i], heads, window_size, j % 2 == 1, drop_path, combine)
                for j, drop_path in enumerate(drop_paths[i])
            ]
            merging = PatchMerging(embed_dims[i - 1], embed_dims[i]) if i else nn.Identity()
            norm = OutputNorm(embed_dims[i])
            return SwinACmixStage(merging, blocks, norm, i < NUM_STAGES - 1, window_size)

        super().__init__(build_stem, build_stage, embed_dims, (4, 8, 16, 32), **kwargs)
        for i, stage in enumerate(self.stages):
            if i not in self.out_indices:
                stage.register_module('norm', None)  # no output, no parameters
        init_parameters(self, linear_layers=True, shift_init=shift_init)

    def _output(self, i: int, x: Tensor) -> Tensor:
        stage: Any = self.stages[i]
        return stage.norm(x)
