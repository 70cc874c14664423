"""ConTNet: Why not use convolution and transformer at the same time? (arXiv:2104.13497).

Written from the paper and from what the authors' released networks compute, which is followed where
the two differ: FFN widths 196/392 in ConT-Ti (the paper's table 1 prints 192/384).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import PatchEncoder
from ..ops import merge_patches, pad_to_multiple, partition_patches
from .base import NUM_STAGES, HybridBackbone, resolve_arch

_WIDE = dict(
    embed_dims=(64, 128, 256, 512),
    num_heads=(1, 2, 4, 8),
    feedforward_channels=(256, 512, 1024, 1024),
)
_NO_DROPOUT = dict(drop_rates=(0.0, 0.0, 0.0, 0.0), out_drop_rate=0.0)

#: Table 1 of the paper. ``drop_rates``: dropout in the encoders of each stage; ``out_drop_rate``:
#: dropout of the last block's output. Both are 0 but in ConT-B.
ARCHS: dict[str, dict[str, Any]] = {
    'ti': dict(
        embed_dims=(48, 96, 192, 384),
        num_heads=(1, 2, 4, 8),
        feedforward_channels=(196, 392, 768, 768),
        depths=(1, 1, 1, 1),
        **_NO_DROPOUT,
    ),
    's': dict(**_WIDE, depths=(1, 1, 1, 1), **_NO_DROPOUT),
    'm': dict(**_WIDE, depths=(2, 2, 2, 2), **_NO_DROPOUT),
    'b': dict(**_WIDE, depths=(3, 4, 6, 3), drop_rates=(0.0, 0.0, 0.1, 0.1), out_drop_rate=0.2),
}


class ConTStem(nn.Module):
    """7x7 stride-2 convolution and 3x3 stride-2 max-pool, with no norm and no activation between.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the first stage.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 7, stride=2, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / 4), ceil(W / 4))."""
        return F.max_pool2d(self.conv(x), 3, stride=2, padding=1)


class ConTBlock(nn.Module):
    """Two patch encoders and a convolution around a shortcut (ConTNet, section 3.1, figure 3).

    ``u = ReLU(BN(x))`` goes through both encoders and the convolution. The shortcut adds ``x``
    itself, or a 1x1 projection of ``u`` where the block changes channels or size.

    A map whose sides are no multiples of the patches is zero-padded at the right and the bottom
    between the ReLU and the first encoder (the paper's "marginal padding", section 4.2), and
    cropped before the convolution: neither BatchNorm nor the convolution see the padding.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        num_heads: Attention heads of the encoders.
        feedforward_channels: Hidden width of the encoders' FFN.
        patch_sizes: Patch sides of the two encoders in pixels of the map; one divides the other.
        kernel_size: Of the convolution, 3 or 1.
        stride: Of the convolution and the projection.
        project: Use the projection shortcut.
        drop_rate: Dropout in the encoders.
        out_drop_rate: Dropout of the block's output, after the sum.
        drop_path_rate: Stochastic depth in the encoders.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_heads: int,
        feedforward_channels: int,
        patch_sizes: Sequence[int],
        kernel_size: int = 3,
        stride: int = 1,
        project: bool = False,
        drop_rate: float = 0.0,
        out_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        # Both encoders share one partition: patches of the larger size whose tokens are ordered by
        # patches of the smaller. Attention does not care about the order, the encodings know it.
        self.tile, self.order = max(patch_sizes), min(patch_sizes)
        if self.order < 1 or self.tile % self.order:
            raise ValueError(
                f'of the two patch sizes of a block one must divide the other, got {patch_sizes}'
            )
        self.norm = nn.BatchNorm2d(in_channels)
        self.encoders = nn.Sequential(
            *(
                PatchEncoder(
                    in_channels,
                    num_heads,
                    feedforward_channels,
                    patch_size,
                    order=self.order,
                    drop_rate=drop_rate,
                    drop_path_rate=drop_path_rate,
                )
                for patch_size in patch_sizes
            )
        )
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=False,
        )
        self.stride = stride
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False) if project else None
        self.out_drop = nn.Dropout(out_drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        h, w = x.shape[2:]
        u = F.relu(self.norm(x), inplace=True)
        # The stride by slicing: oneDNN's backward of a strided 1x1 convolution writes out of bounds
        # where a channels-last map has fewer than 16 channels (uxlfoundation/oneDNN#6035).
        stride = self.stride
        shortcut = x if self.shortcut is None else self.shortcut(u[..., ::stride, ::stride])
        u = pad_to_multiple(u, self.tile)
        tokens = self.encoders(partition_patches(u, self.tile, self.order))
        u = merge_patches(tokens, (u.shape[2], u.shape[3]), self.tile, self.order)
        return self.out_drop(self.conv(u[..., :h, :w]) + shortcut)


@MODELS.register_module()
class ConTNet(HybridBackbone):
    """ConTNet backbone: transformer encoders within patches, between convolutions.

    The last block of every stage doubles the channels, so the outputs are twice as wide as the
    stage: 128/256/512/1024 channels for S, M and B. In the classification network
    (``downsample='conv'``) that convolution has stride 2 in the first three stages, and the outputs
    lie at strides 8/16/32/32. For dense prediction (``'pool'``; section 4.2, "Object Detection") it
    has stride 1 and a 2x2 average pool leads into the next stage: outputs at strides 4/8/16/32.
    Both have the same parameters.

    Inputs of any size work, and outputs stay aligned with the image: see :class:`ConTBlock`.

    Args:
        arch: ``'ti'``, ``'s'``, ``'m'`` or ``'b'``, or a dict with the fields of ``ARCHS['m']``.
        downsample: ``'conv'`` or ``'pool'``.
        patch_sizes: For each stage, the patch sides of a block's two encoders in pixels of its map.
        drop_path_rate: Stochastic depth of the last block; the others' rise linearly from 0.
        in_channels: See :class:`HybridBackbone`, as for all that follow.
        out_indices: Stages to return.
        frozen_stages: Stages to freeze.
        norm_eval: Keep BatchNorm in eval mode.
        with_cp: Recompute blocks in backward.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: For an unknown ``arch`` or ``downsample``, or patch sizes of which neither
            divides the other.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'm',
        *,
        downsample: str = 'conv',
        patch_sizes: Sequence[Sequence[int]] = ((7, 14), (7, 14), (7, 14), (7, 7)),
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
        fields = resolve_arch(arch, ARCHS, 'ConTNet')
        if downsample not in ('conv', 'pool'):
            raise ValueError(f"downsample must be 'conv' or 'pool', got {downsample!r}")
        if len(patch_sizes) != NUM_STAGES or any(
            not isinstance(pair, Sequence) or len(pair) != 2 for pair in patch_sizes
        ):
            raise ValueError(f'patch_sizes must be {NUM_STAGES} pairs, got {patch_sizes!r}')

        embed_dims, depths = fields['embed_dims'], fields['depths']
        channels = (*embed_dims[1:], 2 * embed_dims[-1])
        stages = []
        for i in range(self.last_stage + 1):
            last_stage = i == NUM_STAGES - 1
            # Numbered apart from the pool, so that both ways of downsampling share checkpoints.
            blocks: dict[str, nn.Module] = {}
            if downsample == 'pool' and i > 0:
                # A window that hangs over the edge averages the pixels that exist.
                blocks['pool'] = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
            for j in range(depths[i]):
                last_block = j == depths[i] - 1
                depth = (sum(depths[:i]) + j) / max(1, sum(depths) - 1)
                blocks[str(j)] = ConTBlock(
                    embed_dims[i],
                    channels[i] if last_block else embed_dims[i],
                    num_heads=fields['num_heads'][i],
                    feedforward_channels=fields['feedforward_channels'][i],
                    patch_sizes=patch_sizes[i],
                    kernel_size=1 if last_block and last_stage else 3,
                    stride=2 if last_block and downsample == 'conv' and not last_stage else 1,
                    project=last_block,
                    drop_rate=fields['drop_rates'][i],
                    out_drop_rate=fields['out_drop_rate'] if last_block and last_stage else 0.0,
                    drop_path_rate=drop_path_rate * depth,
                )
            stages.append(nn.Sequential(OrderedDict(blocks)))
        self.assemble(
            ConTStem(in_channels, embed_dims[0]),
            stages,
            channels,
            (4, 8, 16, 32) if downsample == 'pool' else (8, 16, 32, 32),
        )
        self.apply(_init_parameters)


def _init_parameters(module: nn.Module) -> None:
    """He initialisation of convolutions, truncated normal of linear layers; norms are 1 and 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
