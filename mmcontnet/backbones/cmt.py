"""CMT: Convolutional Neural Networks Meet Vision Transformers (arXiv:2107.06263).

Written from the paper and from what the authors' released networks compute, which is followed where
the two differ: hidden widths of CMT-XS are 3.77 times the stage's (table 1 prints 3.8), and all
widths are rounded down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import check_choice
from ..layers import BIAS_RESIZES, CMTBlock, PositionBias, apply_gelu
from ..ops import pad_to_multiple
from .base import (
    BackboneKwargs,
    HybridBackbone,
    Stage,
    drop_path_rates,
    init_parameters,
    resolve_arch,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

_NUM_HEADS = (1, 2, 4, 8)
_REDUCTIONS = (8, 4, 2, 1)

#: Table 1 of the paper, and L; ``img_size`` is the size of training (section 4.1).
ARCHS: dict[str, dict[str, Any]] = {
    'ti': dict(
        stem_channels=16,
        embed_dims=(46, 92, 184, 368),
        depths=(2, 2, 10, 2),
        ffn_ratio=3.6,
        img_size=160,
    ),
    'xs': dict(
        stem_channels=16,
        embed_dims=(52, 104, 208, 416),
        depths=(3, 3, 12, 3),
        ffn_ratio=3.77,
        img_size=192,
    ),
    's': dict(
        stem_channels=32,
        embed_dims=(64, 128, 256, 512),
        depths=(3, 3, 16, 3),
        ffn_ratio=4.0,
        img_size=224,
    ),
    'b': dict(
        stem_channels=38,
        embed_dims=(76, 152, 304, 608),
        depths=(4, 4, 20, 4),
        ffn_ratio=4.0,
        img_size=256,
    ),
    'l': dict(
        stem_channels=45,
        embed_dims=(90, 180, 360, 720),
        depths=(5, 5, 23, 5),
        ffn_ratio=4.0,
        img_size=288,
    ),
}


class CMTStem(nn.Module):
    """Three 3x3 convolutions, the first of stride 2, each before GELU and BatchNorm (section 3.1).

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the stem.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        widths = (in_channels, out_channels, out_channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, out_channels, 3, stride=1 if i else 2, padding=1)
            for i, width in enumerate(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(out_channels) for _ in widths)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / 2), ceil(W / 2))."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(apply_gelu(conv, x))
        return x


class PatchAggregation(nn.Module):
    """2x2 convolution of stride 2 and LayerNorm before a stage (section 3.1); odd sides are padded.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the stage.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 2, stride=2)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / 2), ceil(W / 2))."""
        x = self.conv(pad_to_multiple(x, 2))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class CMTStage(Stage):
    """Patch aggregation, and blocks that share one position bias.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the stage.
        bias: The stage's position bias.
        blocks: The stage's blocks.
    """

    def __init__(
        self, in_channels: int, channels: int, bias: PositionBias, blocks: Sequence[CMTBlock]
    ) -> None:
        super().__init__()
        self.aggregation = PatchAggregation(in_channels, channels)
        self.position_bias = bias
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, ceil(H / 2), ceil(W / 2))."""
        x = self.aggregation(x)
        bias, columns = self.position_bias((x.shape[2], x.shape[3]))
        for block in self.blocks:
            x = self.run(block, x, bias, columns)
        return x


@MODELS.register_module()
class CMT(HybridBackbone):
    """CMT backbone: depthwise convolutions around attention over reduced keys, in four stages.

    Outputs lie at strides 4/8/16/32. Inputs of any size work: the position bias of each stage is
    resized to the size of the map, see :class:`PositionBias`.

    Ti, XS, S and B are the authors'. L is in none of their tables and was never released: it is a
    choice that fits what table 2 prints. From S to B the paper's scaling (equation 18) multiplies
    depths by 1.2, widths by 1.19 (1.3 to the power of 2/3, as the cost grows with the power 1.5 of
    the width) and the size by 1.15, rounded. One more such step from B gives widths of 90 and 45;
    288 pixels are the paper's. The depths lie, for two steps from S and for one from B, at 4.3 and
    4.8 blocks in three stages and at 23 and 24 in the third. 5, 5, 23 and 5 come closest of these:
    74.89M parameters and 19.43 G MACs, where the paper has 74.7M and 19.5 G.

    Args:
        arch: ``'ti'``, ``'xs'``, ``'s'``, ``'b'`` or ``'l'``, or a dict with the fields of
            ``ARCHS['s']``.
        img_size: Side, in pixels, of the square images that the position bias is stored for, a
            multiple of 32; None takes the arch's. A checkpoint of another size is resized when it
            is loaded.
        bias_resize: ``'spatial'`` or ``'matrix'``, see :class:`PositionBias`.
        drop_path_rate: Stochastic depth of the last block; the others' rise linearly from 0.
        **kwargs: The arguments of all backbones, see :class:`HybridBackbone`.

    Raises:
        ValueError: For a value outside of what is described above.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 's',
        *,
        img_size: int | None = None,
        bias_resize: str = 'spatial',
        drop_path_rate: float = 0.0,
        **kwargs: Unpack[BackboneKwargs],
    ) -> None:
        fields = resolve_arch(arch, ARCHS, 'CMT')
        check_choice('bias_resize', bias_resize, BIAS_RESIZES)
        img_size = fields['img_size'] if img_size is None else img_size
        if not isinstance(img_size, int) or img_size < 32 or img_size % 32:
            raise ValueError(f'img_size must be a positive multiple of 32, got {img_size!r}')

        embed_dims = fields['embed_dims']
        drop_paths = drop_path_rates(drop_path_rate, fields['depths'])
        strides = (4, 8, 16, 32)

        def build_stem(in_channels: int) -> CMTStem:
            return CMTStem(in_channels, fields['stem_channels'])

        def build_stage(i: int) -> CMTStage:
            heads, reduction = _NUM_HEADS[i], _REDUCTIONS[i]
            bias = PositionBias(heads, img_size // strides[i], reduction, bias_resize)
            hidden = int(fields['ffn_ratio'] * embed_dims[i])
            blocks = [
                CMTBlock(embed_dims[i], heads, reduction, hidden, drop_path)
                for drop_path in drop_paths[i]
            ]
            width = embed_dims[i - 1] if i else fields['stem_channels']
            return CMTStage(width, embed_dims[i], bias, blocks)

        super().__init__(build_stem, build_stage, embed_dims, strides, **kwargs)
        init_parameters(self, convolutions=True, linear_layers=True)
