"""Optimizer constructors: learning rates of parts of a network."""

from __future__ import annotations

from typing import Any

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


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that are lower the nearer a layer of the backbone is to the image.

    ``paramwise_cfg`` takes one key more than mmengine's, ``layer_decay_rate``: the rate of a layer
    is that of the next one times this number, and neck and heads have the optimizer's. mmpretrain's
    constructor takes the same key, but classifiers only; mmdet's and mmseg's know a few backbones
    by name. This one takes all models with a ``backbone`` that has ``get_layer_depth``.
    Schedulers that set one rate for all parameters, as OneCycleLR does, undo it.

    Raises:
        ValueError: If ``layer_decay_rate`` is not in 0-1, if the optimizer has no ``lr``, or if the
            backbone has no ``get_layer_depth``.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(f'paramwise_cfg.layer_decay_rate must be in 0-1, got {rate!r}')
        if self.base_lr is None:
            raise ValueError('paramwise_cfg.layer_decay_rate needs optimizer.lr')

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Append the parameter groups of ``module``; called for each of its children in turn."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        backbone: Any = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise ValueError(f'backbone {type(backbone).__name__} has no get_layer_depth')
        names = {parameter: name for name, parameter in module.named_parameters()}
        for group in params:
            layer, layers = backbone.get_layer_depth(names[group['params'][0]], 'backbone.')
            decay = self.paramwise_cfg['layer_decay_rate'] ** (layers - 1 - layer)
            group['lr'] = group.get('lr', self.base_lr) * decay
