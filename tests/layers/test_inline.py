"""What replaces or observes a submodule is honoured, whichever fast path its layer has."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcontnet.backbones import SwinACmix
from mmcontnet.layers.inline import can_inline
from mmcontnet.ops import force_reference

from .. import families


class Subclass(nn.Linear):
    pass


class WeightType(Tensor):
    pass


# Each changes a layer, and may return the handle of what it registered.
CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    'forward hook': lambda layer: layer.register_forward_hook(lambda *_: None),
    'forward pre-hook': lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    'backward hook': lambda layer: layer.register_full_backward_hook(lambda *_: None),
    'backward pre-hook': lambda layer: layer.register_full_backward_pre_hook(lambda *_: None),
    'hook on all modules': lambda _: nn.modules.module.register_module_forward_hook(
        lambda *_: None
    ),
    'forward replaced': lambda layer: setattr(layer, 'forward', lambda x: x),
    'parametrization': lambda layer: nn.utils.parametrizations.weight_norm(layer),
    'other weights': lambda layer: setattr(
        layer, 'weight', nn.Parameter(layer.weight.detach().as_subclass(WeightType))
    ),
}


@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_layer_is_not_inlined(change: str) -> None:
    layer = nn.Linear(3, 3)
    assert can_inline(layer, nn.Linear)
    handle = CHANGES[change](layer)
    try:
        assert not can_inline(layer, nn.Linear)
    finally:
        if hasattr(handle, 'remove'):
            handle.remove()


def test_other_classes_and_the_reference_are_not_inlined() -> None:
    assert not can_inline(nn.Conv2d(3, 3, 1), nn.Linear)
    assert not can_inline(Subclass(3, 3), nn.Linear)
    with force_reference():
        assert not can_inline(nn.Linear(3, 3), nn.Linear)
    assert can_inline(nn.Linear(3, 3), nn.Linear)


@pytest.mark.filterwarnings('ignore')  # PyTorch is about to move it to torchao
def test_dynamic_quantisation_takes_effect() -> None:
    backbone = SwinACmix(families.SWIN_ACMIX).eval()
    quantised = torch.ao.quantization.quantize_dynamic(backbone, {nn.Linear})
    assert not any(type(module) is nn.Linear for module in quantised.modules())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        (actual,), (expected,) = quantised(image), backbone(image)
    difference = (actual - expected).abs().mean()
    assert 0 < difference < 0.2 * expected.abs().mean()
