"""Neck of PVT-ACmix's classifier, between backbone and linear layer."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class PVTACmixNeck(BaseModule):
    """LayerNorm, as in PVT, and mean pool in the place of PVT's class token.

    Args:
        in_channels: Channels of the backbone's last output.
        init_cfg: mmengine's initialisation config.
    """

    def __init__(self, in_channels: int, init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg)
        self.norm = nn.LayerNorm(in_channels, eps=1e-6)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        """Pool the last of the backbone's outputs, (B, C, H, W) -> ((B, C),)."""
        return (self.norm(inputs[-1].permute(0, 2, 3, 1)).mean((1, 2)),)
