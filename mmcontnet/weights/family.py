"""What the families' key maps and the converter agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that is not what it should be."""


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint.

    Attributes:
        state_dict: mmpretrain-style names: ``backbone.*``, ``neck.*``, ``head.fc.*``.
        backbone: Config of the backbone that the tensors fit.
        neck: Config of the neck, for families whose classifiers have one with parameters.
    """

    state_dict: dict[str, Tensor]
    backbone: dict[str, Any]
    neck: dict[str, Any] | None = None
