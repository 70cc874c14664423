"""CMT's position bias between queries and reduced keys, at any size (CMT, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..ops import resize_matrix, resize_spatial

BIAS_RESIZES = ('spatial', 'matrix')


def native_side(shape: Sequence[int], num_heads: int, reduction: int) -> int:
    """Return the side of the square map that a position bias of this shape is for.

    Args:
        shape: Of the table, (heads, N, M) if it is one.
        num_heads: Attention heads.
        reduction: Side of the square of pixels to a key.

    Returns:
        Side in pixels; 0 if there is no such map.
    """
    side = math.isqrt(shape[1]) if len(shape) == 3 else 0
    fits = side % reduction == 0 and (
        tuple(shape) == (num_heads, side**2, (side // reduction) ** 2)
    )
    return side if fits else 0


class PositionBias(nn.Module):
    """Learnt bias of attention's logits for each query, key and head of a stage, B in equation 3.

    At its native size it is used as it is. For other maps it is resized: ``'spatial'`` bicubically
    over the grid of the queries and over that of the keys; ``'matrix'`` as the paper's formula
    B' = Bicubic(B) reads, over the matrix of queries by keys, in which neighbouring entries are not
    always neighbours in the image.

    A checkpoint whose table has another native size is resized when it is loaded, and says so in
    the log; loading a table that belongs to no square map raises RuntimeError.

    Args:
        num_heads: Attention heads.
        side: Side of the native map in pixels, a multiple of ``reduction``.
        reduction: Side of the square of pixels to a key.
        resize: One of ``BIAS_RESIZES``.
    """

    def __init__(self, num_heads: int, side: int, reduction: int, resize: str = 'spatial') -> None:
        super().__init__()
        self.side = side
        self.reduction = reduction
        self.resize = resize
        self.table = nn.Parameter(torch.randn(num_heads, side**2, (side // reduction) ** 2))
        # The last bias of inference on a CPU, with the size and the table it was made for.
        self._cached: tuple[tuple[int, int], Tensor, Tensor] | None = None

    def forward(self, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Return the bias for a map, whole or in factors, whichever is faster to use.

        Whole where it costs little: at the native size, and in inference on a CPU, where it is kept
        for the next image. In factors, see :func:`mmcontnet.ops.low_rank_biased_attention`, where a
        whole bias would have to be kept for backward (458 MiB for CMT-S at 800 x 1280), and on
        CUDA, where the fused kernels would otherwise make a gradient of the bias for every image.

        Args:
            size: (H, W) of the map in pixels.

        Returns:
            The bias (heads, N, M) and None, or its factors (heads, N, R) and (M, R).
        """
        table = self.table
        native = (self.side, self.side)
        if size == native and not table.is_cuda:
            return table, None
        if table.is_meta:  # for counts, where interpolation is free: nobody counts an FPN's either
            return table.new_empty(len(table), math.prod(size), self._keys(size)), None
        if table.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._cached = None
            return self._factors(table, native, size)
        if self._cached is not None:
            cached_size, cached_table, bias = self._cached
            # By value, since weights are also changed in ways that leave no trace (`p.data`).
            same = (cached_table.dtype, cached_table.device) == (table.dtype, table.device)
            if cached_size == size and same and torch.equal(cached_table, table):
                return bias, None
        with torch.autocast(table.device.type, enabled=False):  # or its rounding would be cached
            rows, columns = self._factors(table, native, size)
            bias = rows @ columns.mT
        self._cached = size, table.detach().clone(), bias
        return bias, None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are without the cache, which is larger than the network."""
        return {**self.__dict__, '_cached': None}

    def _factors(
        self, table: Tensor, native: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        if size == native:
            # Exactly: bicubic weights would be rounded.
            return table, torch.eye(table.shape[2], dtype=table.dtype, device=table.device)
        if self.resize == 'spatial':
            return resize_spatial(table, native, self.reduction, size)
        return resize_matrix(table, (math.prod(size), self._keys(size)))

    def _keys(self, size: tuple[int, int]) -> int:
        return math.prod(math.ceil(n / self.reduction) for n in size)

    def adapt_weights(self, weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Resize a table of another native size.

        Args:
            weights: Of a checkpoint, by their names.
            prefix: Of this module's names there, with the dot.

        Returns:
            What to load instead of weights of the same names: the resized table, or nothing if the
            table fits as it is or belongs to no square map.
        """
        key = f'{prefix}table'
        table = weights.get(key)
        if table is None or table.shape == self.table.shape:
            return {}
        side = native_side(table.shape, len(self.table), self.reduction)
        if not side:
            return {}
        rows, columns = self._factors(table, (side, side), (self.side, self.side))
        print_log(
            f'{key} resized from a map of {side} x {side} to {self.side} x {self.side}',
            logger='current',
        )
        return {key: rows @ columns.mT}

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        state_dict = {**state_dict, **self.adapt_weights(state_dict, prefix)}
        table = state_dict.get(f'{prefix}table')
        if table is not None and table.shape != self.table.shape:
            # At once: mmengine would only warn, and leave the bias random.
            raise RuntimeError(
                f'size mismatch for {prefix}table: {tuple(table.shape)} is the table of no square '
                f'map with {len(self.table)} heads and {self.reduction} x {self.reduction} '
                f'pixels to a key; here it is {tuple(self.table.shape)}'
            )
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
