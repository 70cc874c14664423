"""ConTNet: Why not use convolution and transformer at the same time? (arXiv:2104.13497).

Written from the paper and from what the authors' released networks compute, which is followed where
the two differ: FFN widths 196/392 in ConT-Ti (the paper's table 1 prints 192/384).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import check_choice
from ..layers import POS_ENCODINGS, PatchEncoder
from ..ops import pad_to_multiple, subsample, window_partition, window_reverse
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

#: Patch sides of a block's two encoders, stage by stage (section 3.1, "Network architecture").
PATCH_SIZES = ((7, 14), (7, 14), (7, 14), (7, 7))
#: Strides of the stages' maps, before their last convolution.
_MAP_STRIDES = (4, 8, 16, 32)


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
        patch_sizes: Patch sides of the two encoders in pixels of the map; one divides the other.
        kernel_size: Of the convolution, 3 or 1.
        stride: Of the convolution and the projection.
        dilation: Of the convolution.
        conv_groups: Groups of the convolution and the projection, or ``'depthwise'``: a 3x3
            convolution is a depthwise one and a 1x1 one after it (table 11).
        project: Use the projection shortcut.
        avg_down: Where the projection has a stride, average 2x2 pixels instead of skipping them.
        out_drop_rate: Dropout of the block's output, after the sum.
        encoder: More arguments of the encoders, see :class:`PatchEncoder`.

    Raises:
        ValueError: If none of the patch sizes divides the other.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        patch_sizes: Sequence[int],
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        conv_groups: int | str = 1,
        project: bool = False,
        avg_down: bool = False,
        out_drop_rate: float = 0.0,
        encoder: Mapping[str, Any],
    ) -> None:
        super().__init__()
        # Both encoders share one partition: patches of the larger size whose tokens are ordered by
        # patches of the smaller. Attention does not care about the order, the encodings know it.
        self.tile, self.order = max(patch_sizes), min(patch_sizes)
        if self.tile % self.order:
            raise ValueError(
                f'of the two patch sizes of a block one must divide the other, got {patch_sizes}'
            )
        self.norm = nn.BatchNorm2d(in_channels)
        self.encoders = nn.ModuleList(
            PatchEncoder(
                in_channels, patch_size=patch_size, tile=self.tile, order=self.order, **encoder
            )
            for patch_size in patch_sizes
        )
        separable = conv_groups == 'depthwise' and kernel_size > 1
        groups = conv_groups if isinstance(conv_groups, int) else 1
        conv = nn.Conv2d(
            in_channels,
            in_channels if separable else out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=in_channels if separable else groups,
            bias=False,
        )
        pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False) if separable else None
        self.conv = nn.Sequential(conv, pointwise) if pointwise else conv
        self.stride = stride
        self.avg_down = avg_down
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False) if project else None
        )
        self.out_drop = nn.Dropout(out_drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        h, w = x.shape[2:]
        u = F.relu(self.norm(x), inplace=True)
        shortcut = x
        if self.shortcut is not None:
            shortcut = self.shortcut(subsample(u, self.stride, self.avg_down))
        u = pad_to_multiple(u, self.tile)
        tokens = window_partition(u, self.tile, self.order)
        for encoder in self.encoders:
            tokens = encoder(tokens, (h, w))
        u = window_reverse(tokens, (u.shape[2], u.shape[3]), self.tile, self.order)
        return self.out_drop(self.conv(u[..., :h, :w]) + shortcut)


@MODELS.register_module()
class ConTNet(HybridBackbone):
    """ConTNet backbone: transformer encoders within patches, between convolutions.

    The last block of every stage doubles the channels, so the outputs are twice as wide as the
    stage: 128/256/512/1024 channels for S, M and B. In the classification network
    (``downsample='conv'``) that convolution has stride 2 in the first three stages, and the outputs
    lie at strides 8/16/32/32. For dense prediction (``'pool'``; section 4.2, "Object Detection") it
    has stride 1 and a 2x2 average pool leads into the next stage: outputs at strides 4/8/16/32.
    Both have the same parameters, and so have all values of ``output_stride``.

    Inputs of any size work, and outputs stay aligned with the image: see :class:`ConTBlock`.

    Args:
        arch: ``'ti'``, ``'s'``, ``'m'`` or ``'b'``, or a dict with the fields of ``ARCHS['m']``.
        downsample: ``'conv'`` or ``'pool'``.
        output_stride: Largest stride of the outputs: 32, or with ``'pool'`` also 16 or 8. The later
            pools fall away, and the 3x3 convolutions behind them are dilated by 2, then 4 instead.
        patch_sizes: For each stage, the patch sides of its encoders in pixels of its map, repeated
            over its blocks: (7, 14) for the two encoders of every block, (7, 7, 14, 14) for blocks
            that take turns (table 9).
        pos_encoding: ``'2d'``, ``'1d'``, ``'relative'`` or ``'none'`` (table 8).
        pos_placement: ``'patch'``: each patch has the same encoding. ``'image'``: it is one of the
            whole map, learnt at the size that the stage has for an image of 224 x 224 (whatever
            ``output_stride``), and resized (bicubic) to the map; for ``'2d'`` and ``'1d'``.
        conv_groups: Groups of the blocks' convolutions and projections, or ``'depthwise'`` for
            depthwise separable 3x3 convolutions (table 11).
        pre_norm: Encoders normalise before attention and FFN, not after the sums.
        qkv_bias: Queries, keys and values have a bias.
        avg_down: Projection shortcuts of stride 2 average 2x2 pixels first.
        drop_path_rate: Stochastic depth of the last block; the others' rise linearly from 0.
        **kwargs: The arguments of all backbones, see :class:`HybridBackbone`.

    Raises:
        ValueError: For a value or a combination outside of what is described above.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'm',
        *,
        downsample: str = 'conv',
        output_stride: int = 32,
        patch_sizes: Sequence[Sequence[int]] = PATCH_SIZES,
        pos_encoding: str = '2d',
        pos_placement: str = 'patch',
        conv_groups: int | str = 1,
        pre_norm: bool = False,
        qkv_bias: bool = True,
        avg_down: bool = False,
        drop_path_rate: float = 0.0,
        **kwargs: Unpack[BackboneKwargs],
    ) -> None:
        fields = resolve_arch(arch, ARCHS, 'ConTNet')
        embed_dims, depths = fields['embed_dims'], fields['depths']
        check_choice('downsample', downsample, ('conv', 'pool'))
        output_strides = (32, 16, 8) if downsample == 'pool' else (32,)
        check_choice(f'output_stride with downsample={downsample!r}', output_stride, output_strides)
        check_choice('pos_encoding', pos_encoding, POS_ENCODINGS)
        check_choice('pos_placement', pos_placement, ('patch', 'image'))
        if pos_placement == 'image' and pos_encoding not in ('1d', '2d'):
            raise ValueError(f"pos_placement='image' has no meaning with {pos_encoding=}")
        _check_patch_sizes(patch_sizes)
        _check_conv_groups(conv_groups, embed_dims)

        channels = (*embed_dims[1:], 2 * embed_dims[-1])
        drop_paths = drop_path_rates(drop_path_rate, depths)
        strides = [min(stride, output_stride) for stride in _MAP_STRIDES]

        def build_stem(in_channels: int) -> ConTStem:
            return ConTStem(in_channels, embed_dims[0])

        def build_stage(i: int) -> SequentialStage:
            last_stage = i == NUM_STAGES - 1
            sizes = itertools.cycle(patch_sizes[i])
            # Numbered apart from the pool, so that both ways of downsampling share checkpoints.
            blocks: dict[str, nn.Module] = {}
            if downsample == 'pool' and i > 0 and strides[i] > strides[i - 1]:
                # A window that hangs over the edge averages the pixels that exist.
                blocks['pool'] = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
            for j in range(depths[i]):
                last_block = j == depths[i] - 1
                blocks[str(j)] = ConTBlock(
                    embed_dims[i],
                    channels[i] if last_block else embed_dims[i],
                    patch_sizes=(next(sizes), next(sizes)),
                    kernel_size=1 if last_block and last_stage else 3,
                    stride=2 if last_block and downsample == 'conv' and not last_stage else 1,
                    dilation=_MAP_STRIDES[i] // strides[i],
                    conv_groups=conv_groups,
                    project=last_block,
                    avg_down=avg_down,
                    out_drop_rate=fields['out_drop_rate'] if last_block and last_stage else 0.0,
                    encoder=dict(
                        num_heads=fields['num_heads'][i],
                        feedforward_channels=fields['feedforward_channels'][i],
                        pos_encoding=pos_encoding,
                        map_size=224 // _MAP_STRIDES[i] if pos_placement == 'image' else None,
                        pre_norm=pre_norm,
                        qkv_bias=qkv_bias,
                        drop_rate=fields['drop_rates'][i],
                        drop_path_rate=drop_paths[i][j],
                    ),
                )
            return SequentialStage(OrderedDict(blocks))

        out_strides = strides if downsample == 'pool' else (*strides[1:], strides[-1])
        super().__init__(build_stem, build_stage, channels, out_strides, **kwargs)
        init_parameters(self, convolutions=True, linear_layers=True)


def _check_patch_sizes(patch_sizes: Sequence[Sequence[int]]) -> None:
    def valid(sizes: object) -> bool:
        return (
            isinstance(sizes, Sequence)
            and len(sizes) > 0
            and len(sizes) % 2 == 0
            and all(isinstance(size, int) and size > 0 for size in sizes)
        )

    if (
        not isinstance(patch_sizes, Sequence)
        or len(patch_sizes) != NUM_STAGES
        or not all(valid(sizes) for sizes in patch_sizes)
    ):
        raise ValueError(
            f'patch_sizes must be {NUM_STAGES} pairs of positive ints, or multiples of pairs, '
            f'got {patch_sizes!r}'
        )


def _check_conv_groups(conv_groups: int | str, embed_dims: Sequence[int]) -> None:
    if conv_groups == 'depthwise':
        return
    if not (
        isinstance(conv_groups, int)
        and conv_groups > 0
        and all(c % conv_groups == 0 for c in embed_dims)
    ):
        raise ValueError(
            f"conv_groups must be 'depthwise' or a common divisor of {tuple(embed_dims)}, "
            f'got {conv_groups!r}'
        )
