"""Linear layer over tokens."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import linear


class Linear(nn.Linear):
    """``nn.Linear`` for tokens (B, N, C) or (B, H, W, C), see :func:`mmcontnet.ops.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C')."""
        return linear(x, self.weight, self.bias)
