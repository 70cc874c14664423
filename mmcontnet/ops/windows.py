"""Cut feature maps into square windows of tokens, and put them together again."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad a map at the right and the bottom until both sides are multiples of ``multiple``.

    Args:
        x: (B, C, H, W).
        multiple: In pixels of the map.

    Returns:
        (B, C, H', W'); ``x`` itself where no padding is needed.
    """
    pad_h, pad_w = -x.shape[2] % multiple, -x.shape[3] % multiple
    return F.pad(x, (0, pad_w, 0, pad_h)) if pad_h or pad_w else x


def window_partition(x: Tensor, window: int, sub_window: int | None = None) -> Tensor:
    """Cut a map into windows of tokens.

    Within a window, the tokens are ordered by sub-windows of ``sub_window`` x ``sub_window``
    pixels, row by row in each. So windows of 14 with sub-windows of 7 are also, after a mere
    reshape, windows of 7: encoders of both sizes can work on them without moving data.

    Args:
        x: (B, C, H, W); H and W are multiples of ``window``. Channels-last is fastest.
        window: Side of a window in pixels of the map.
        sub_window: Side of a sub-window, a divisor of ``window``; None is ``window`` itself.

    Returns:
        (B, H * W, C), window after window, row by row of windows.
    """
    side = sub_window or window
    b, c, h, w = x.shape
    rows, cols, inner = h // window, w // window, window // side
    x = x.permute(0, 2, 3, 1).reshape(b, rows, inner, side, cols, inner, side, c)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, h * w, c)


def window_reverse(
    tokens: Tensor, size: tuple[int, int], window: int, sub_window: int | None = None
) -> Tensor:
    """Undo :func:`window_partition`.

    Args:
        tokens: (B, H * W, C), window after window.
        size: (H, W) of the map in pixels.
        window: As for :func:`window_partition`.
        sub_window: As for :func:`window_partition`.

    Returns:
        (B, C, H, W), in channels-last memory format.
    """
    side = sub_window or window
    h, w = size
    rows, cols, inner = h // window, w // window, window // side
    b, _, c = tokens.shape
    x = tokens.reshape(b, rows, cols, inner, inner, side, side, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, h, w, c).permute(0, 3, 1, 2)
