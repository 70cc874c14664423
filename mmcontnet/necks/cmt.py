"""The projection of CMT's classifier (CMT, section 3.1 and table 1: "FC")."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class CMTNeck(BaseModule):
    """1x1 convolution, BatchNorm, swish, mean pool and dropout.

    Args:
        in_channels: Channels of the backbone's last output.
        out_channels: Channels of the feature vector.
        drop_rate: Dropout of the feature vector.
        init_cfg: mmengine's initialisation config.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1280,
        drop_rate: float = 0.0,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.out_channels = out_channels
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.norm = nn.BatchNorm2d(out_channels)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        """Pool the last of the backbone's outputs, (B, C, H, W) -> ((B, out_channels),)."""
        x = F.silu(self.norm(self.conv(inputs[-1])))
        return (self.drop(x.mean((2, 3))),)
