"""The optimizer of recipes that train the encoders at a learning rate of their own."""

from __future__ import annotations

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from .layers import PatchEncoder


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class EncoderLrConstructor(DefaultOptimWrapperConstructor):
    """Two learning rates: the optimizer's, and one for all patch encoders (ConTNet, section 4.1).

    ``paramwise_cfg`` takes one key more than mmengine's, ``encoder_lr``. With ``custom_keys``
    instead, mmengine would no longer apply the rules for the weight decay of norms and biases.

    Raises:
        ValueError: If ``encoder_lr`` is missing or no positive number.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        lr = self.paramwise_cfg.get('encoder_lr')
        if not isinstance(lr, (int, float)) or lr <= 0:
            raise ValueError(f'paramwise_cfg.encoder_lr must be a positive number, got {lr!r}')

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Append the parameter groups of ``module``; called for each of its children in turn."""
        before = len(params)
        super().add_params(params, module, prefix, is_dcn_module)
        if isinstance(module, PatchEncoder):
            for group in params[before:]:
                group['lr'] = self.paramwise_cfg['encoder_lr']
