"""CMT's position bias between queries and reduced keys, at any size (CMT, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..errors import WeightMismatchError
from ..ops import resize_matrix, resize_spatial
from .loading import AdaptiveLoading

BIAS_RESIZES = ('spatial', 'matrix')


def native_side(shape: Sequence[int], num_heads: int, reduction: int) -> int:
    """Return the side of the square map that a position bias of this shape belongs to.

    Args:
        shape: Shape of the table: (heads, N, M) with N pixels and M keys.
        num_heads: Attention heads.
        reduction: A key stands for ``reduction`` x ``reduction`` pixels.

    Returns:
        Side in pixels; 0 if there is no such map.
    """
    side = math.isqrt(shape[1]) if len(shape) == 3 else 0
    fits = side % reduction == 0 and (
        tuple(shape) == (num_heads, side**2, (side // reduction) ** 2)
    )
    return side if fits else 0


class PositionBias(AdaptiveLoading):
    """Learnt bias of the attention logits, one per head, query and key: B in equation 3.

    The table holds the bias for a square map, its native size, where it is used as it is. For any
    other map it is resized: ``'spatial'`` interpolates bicubically over the grid of the queries,
    then over that of the keys. ``'matrix'`` takes the paper's B' = Bicubic(B) literally and
    interpolates the matrix of queries by keys, in which neighbouring entries are not always
    neighbours in the image.

    A checkpoint whose table has another native size is resized when it is loaded, which is logged.

    Args:
        num_heads: Attention heads.
        side: Side of the native map in pixels, a multiple of ``reduction``.
        reduction: A key stands for ``reduction`` x ``reduction`` pixels.
        resize: One of ``BIAS_RESIZES``.
    """

    def __init__(self, num_heads: int, side: int, reduction: int, resize: str = 'spatial') -> None:
        super().__init__()
        self.side = side
        self.reduction = reduction
        self.resize = resize
        self.table = nn.Parameter(torch.randn(num_heads, side**2, (side // reduction) ** 2))
        # Of the last inference on a CPU: the size, the table, and their bias.
        self._cached: tuple[tuple[int, int], Tensor, Tensor] | None = None

    def forward(self, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Return the bias for a map, either as one tensor or as two factors of it.

        One tensor where that is the faster: at the native size and in inference, where the bias is
        kept for the next image. Two factors (see :func:`mmcontnet.ops.low_rank_biased_attention`)
        in training, where backward would need the tensor (458 MiB for CMT-S at 800 x 1280), and
        always on CUDA, where the fused kernels would otherwise compute its gradient per image.

        Args:
            size: (H, W) of the map in pixels.

        Returns:
            The bias (heads, N, M) and None, or its factors (heads, N, R) and (M, R).
        """
        table = self.table
        if size == (self.side, self.side) and not table.is_cuda:
            return table, None
        if (
            table.is_cuda
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or not _is_plain(table)
        ):
            self._cached = None
            return self._factors(table, size)
        cached = self._cached
        if cached is not None and cached[0] == size and _equal(cached[1], table):
            return cached[2], None
        # Another thread may change the table: what is kept must be the bias of one copy of it.
        copy = table.detach().clone()
        with torch.autocast('cpu', enabled=False):  # autocast's rounding would be kept, too
            rows, columns = self._factors(copy, size)
            bias = rows @ columns.mT
        if table.device.type == 'cpu' and type(copy) is Tensor:  # a mode may make fake ones
            self._cached = size, copy, bias
        return bias, None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cached bias out of copies and pickles; it is larger than the network."""
        return {**self.__dict__, '_cached': None}

    def _factors(self, table: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Resize a table of any native size; returns rows (heads, N, R) and columns (M, R)."""
        side = math.isqrt(table.shape[1])
        if size == (side, side):
            # Exactly: bicubic weights would be rounded.
            return table, torch.eye(table.shape[2], dtype=table.dtype, device=table.device)
        if self.resize == 'spatial':
            return resize_spatial(table, (side, side), self.reduction, size)
        keys = math.prod(math.ceil(n / self.reduction) for n in size)
        return resize_matrix(table, (math.prod(size), keys))

    def adapt_weights(self, weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Resize a table of another native size, see :class:`AdaptiveLoading`.

        Raises:
            WeightMismatchError: For a table that belongs to no square map.
        """
        key = f'{prefix}table'
        table = weights.get(key)
        if table is None or table.shape == self.table.shape:
            return {}
        side = native_side(table.shape, len(self.table), self.reduction)
        if not side:
            # Raised at once: mmengine would only warn, and leave the bias random.
            raise WeightMismatchError(
                f'{key} of shape {tuple(table.shape)} belongs to no square map with '
                f'{len(self.table)} heads and {self.reduction} x {self.reduction} pixels to a key; '
                f'here it is {tuple(self.table.shape)}'
            )
        rows, columns = self._factors(table, (self.side, self.side))
        print_log(
            f'{key} resized from a map of {side} x {side} to {self.side} x {self.side}',
            logger='current',
        )
        return {key: rows @ columns.mT}


def _is_plain(table: Tensor) -> bool:
    # What function transforms put in the parameter's place, or one with a tangent, is of one call.
    return type(table) is nn.Parameter and forward_ad.unpack_dual(table).tangent is None


def _equal(kept: Tensor, table: Tensor) -> bool:
    # By value: weights are also changed in ways that leave no trace, such as `p.data`.
    same_kind = (kept.dtype, kept.device) == (table.dtype, table.device)
    return same_kind and torch.equal(kept, table)
