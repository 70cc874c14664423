"""Layers that adapt the weights of a checkpoint, such as those of another image size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class AdaptiveLoading(nn.Module):
    """Mixin of layers whose weights may have another shape in a checkpoint, or be missing."""

    def adapt_weights(self, weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Return tensors that replace, or are added to, the weights of a checkpoint.

        ``load_state_dict`` calls this, and so does code that compares a checkpoint with a network
        without loading it.

        Args:
            weights: The checkpoint's tensors by name; not changed.
            prefix: Of the layer's names among them, such as ``'stages.0.position_bias.'``.

        Returns:
            New tensors by name; empty where the weights fit as they are.

        Raises:
            WeightMismatchError: For a tensor that cannot be adapted.
        """
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # In place, so that submodules see them: PyTorch hands on copies of the caller's dict.
        state_dict.update(self.adapt_weights(state_dict, prefix))
        super()._load_from_state_dict(state_dict, prefix, *args)
