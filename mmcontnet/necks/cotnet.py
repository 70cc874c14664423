"""Neck of CoTNet's classifier, between backbone and linear layer (CoTNet, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class CoTNetNeck(BaseModule):
    """Mean pool and dropout.

    mmpretrain has no dropout for a classifier of one linear layer.

    Args:
        drop_rate: Dropout of the feature vector; the advanced training has 0.25.
        init_cfg: mmengine's initialisation config.
    """

    def __init__(self, drop_rate: float = 0.0, init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        """Pool the last of the backbone's outputs, (B, C, H, W) -> ((B, C),)."""
        return (self.drop(inputs[-1].mean((2, 3))),)
