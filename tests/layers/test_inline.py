"""What replaces or observes a submodule is honoured, whichever fast path its layer has."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcontnet.backbones import SwinACmix
from mmcontnet.layers import CMTBlock, ConvolutionPath, SlidingACmix, WindowACmix
from mmcontnet.layers.inline import can_inline
from mmcontnet.ops import force_reference

from .. import families
from ..families import wrapped

# A layer, and the arguments of its call.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple]] = {
    'FFN of CMT': (lambda: CMTBlock(8, 2, 1, 20).ffn, (torch.randn(2, 8, 5, 6),)),
    'one convolution': (lambda: ConvolutionPath(9, 4, 3), (torch.randn(2, 36, 5, 6),)),
    'two steps': (lambda: ConvolutionPath(36, 4, 12), (torch.randn(2, 144, 5, 6),)),
    'with a bias': (lambda: ConvolutionPath(9, 4, 3, bias=True), (torch.randn(2, 36, 5, 6),)),
    'windows': (lambda: WindowACmix(12, 3, 4), (torch.randn(2, 8, 4, 12), None, None)),
    'sliding': (lambda: SlidingACmix(8, num_heads=2), (torch.randn(2, 8, 5, 6),)),
}
CASES = [
    (layer, name)
    for layer, (build, _) in LAYERS.items()
    for name, module in build().named_modules()
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.BatchNorm2d))
]


def compute(layer: nn.Module, args: tuple, training: bool) -> Tensor:
    # A copy: norms in training change their statistics.
    with torch.set_grad_enabled(training):
        return deepcopy(layer).train(training)(*args).detach()


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(('layer', 'name'), CASES)
def test_wrappers_are_called_and_hooks_may_change_outputs(
    layer: str, name: str, training: bool
) -> None:
    build, args = LAYERS[layer]
    plain = build()
    changed, hooked = deepcopy(plain), deepcopy(plain)
    hooked.get_submodule(name).register_forward_hook(lambda module, args, out: 2 * out)
    before = compute(plain, args, training)
    with wrapped(changed, name) as wrapper:
        actual = compute(changed, args, training)
        with force_reference():
            expected = compute(changed, args, training)
        with torch.no_grad():
            changed.train(training)(*args)
        assert wrapper.calls == 1
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compute(hooked, args, training), expected, rtol=1e-4, atol=1e-5)
    # In training the last norm undoes the scale of its input.
    if not (training and name in ('depthwise_norm', 'project')):
        assert not torch.allclose(actual, before, rtol=1e-3, atol=1e-5)


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
