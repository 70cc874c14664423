"""What the families' key maps and the converter agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import CheckpointError


class Tensors(dict[str, Tensor]):
    """Tensors by their new names, of which each can be given once."""

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        if name in self:
            raise CheckpointError(f'two tensors of the checkpoint are both {name}')
        super().__setitem__(name, tensor)


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint.

    Attributes:
        state_dict: mmpretrain-style names: ``backbone.*``, ``neck.*``, ``head.fc.*``.
        backbone: Config of the backbone that the tensors fit.
        neck: Config of the neck, for families whose classifiers have one with parameters.
        entry: Where in the checkpoint's file the tensors were; None for a bare state dict.
    """

    state_dict: dict[str, Tensor]
    backbone: dict[str, Any]
    neck: dict[str, Any] | None = None
    entry: str | None = None
