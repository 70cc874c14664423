"""ACmix in Swin: On the Integration of Self-Attention and Convolution (arXiv:2111.14556).

Written from the paper, Swin's (arXiv:2103.14030), and from what the authors' released network
computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import COMBINATIONS, SwinACmixBlock, shift_mask
from ..ops import pad_to_multiple
from .base import NUM_STAGES, HybridBackbone, check_choice, drop_path_rates, resolve_arch

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
    """LayerNorm of an output that classifiers do not have.

    Their checkpoints lack it: it starts as Swin's for dense prediction do, and says so in the log.
    """

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        if f'{prefix}weight' not in state_dict and f'{prefix}bias' not in state_dict:
            fresh = {'weight': self.weight.new_ones(len(self.weight))}
            fresh['bias'] = self.bias.new_zeros(len(self.bias))
            state_dict = {**state_dict, **{f'{prefix}{key}': fresh[key] for key in fresh}}
            print_log(f'{prefix}weight and bias are not in the checkpoint: 1 and 0', 'current')
        super()._load_from_state_dict(state_dict, prefix, *args)


class SwinACmixStage(nn.Module):
    """Patch merging (but for the first stage), blocks, and the norm of the stage's output.

    Args:
        merging: Before the blocks.
        blocks: The stage's blocks.
        norm: Of what is returned; the next stage gets the map without. None where nothing is.
    """

    def __init__(
        self, merging: nn.Module, blocks: Sequence[SwinACmixBlock], norm: nn.Module | None
    ) -> None:
        super().__init__()
        self.merging = merging
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm


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
        drop_path_rate: Stochastic depth of the last block; the others' rise linearly from 0.
        in_channels: See :class:`HybridBackbone`, as for all that follow.
        out_indices: Stages to return.
        frozen_stages: Stages to freeze, the norms of their outputs included.
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
        window_size: int = 7,
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
        fields = resolve_arch(arch, ARCHS, 'SwinACmix')
        check_choice('combine', combine, COMBINATIONS)
        if not isinstance(window_size, int) or window_size < 1:
            raise ValueError(f'window_size must be a positive int, got {window_size!r}')
        self.window_size = window_size
        embed_dims, depths = fields['embed_dims'], fields['depths']
        drop_paths = drop_path_rates(drop_path_rate, depths)
        stages = []
        for i in range(self.last_stage + 1):
            blocks = [
                SwinACmixBlock(
                    embed_dims[i],
                    fields['num_heads'][i],
                    window_size,
                    j % 2 == 1,
                    drop_paths[i][j],
                    combine,
                )
                for j in range(depths[i])
            ]
            merging = PatchMerging(embed_dims[i - 1], embed_dims[i]) if i else nn.Identity()
            norm = None
            if i in self.out_indices:
                norm = (nn.LayerNorm if i == NUM_STAGES - 1 else OutputNorm)(embed_dims[i])
            stages.append(SwinACmixStage(merging, blocks, norm))
        self.assemble(
            PatchEmbedding(in_channels, embed_dims[0]), stages, embed_dims, (4, 8, 16, 32)
        )
        for name, module in self.named_modules():
            if not name.endswith('.mix'):
                _init_parameters(module)

    def forward_stage(self, stage: Any, x: Tensor) -> Tensor:
        """Run a stage, (B, C, H, W) -> (B, C', H', W')."""
        x = stage.merging(x)
        # Once for all blocks of the stage.
        mask = shift_mask(x, self.window_size)
        for block in stage.blocks:
            x = self.run_block(block, x, mask)
        return x

    def forward_output(self, stage: Any, x: Tensor) -> Tensor:
        """Norm an output, (B, C, H, W) -> the same shape."""
        return stage.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _init_parameters(module: nn.Module) -> None:
    """Truncated normal for the linear layers over tokens, as in Swin; all else as it is."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
