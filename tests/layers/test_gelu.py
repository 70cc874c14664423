from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmcontnet.layers import apply_gelu

from ..families import FAMILIES, Family, randomise_norms

LAYERS: dict[str, Callable[[], nn.Module]] = {
    'linear': lambda: nn.Linear(8, 6),
    'without bias': lambda: nn.Linear(8, 6, bias=False),
    'convolution': lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    'dilated': lambda: nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(0, 2), dilation=2, groups=2),
    'reflecting': lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode='reflect'),
    'same': lambda: nn.Conv2d(4, 6, 3, padding='same'),
    'other': lambda: nn.Sequential(nn.Conv2d(4, 6, 1), nn.Tanh()),
}


@pytest.mark.parametrize('grad', [True, False])
@pytest.mark.parametrize('name', LAYERS)
def test_it_is_gelu_of_the_layer(name: str, grad: bool) -> None:
    layer, x = LAYERS[name](), torch.randn(2, 4, 7, 8)
    with torch.set_grad_enabled(grad):
        actual = apply_gelu(layer, x)
    torch.testing.assert_close(actual, F.gelu(layer(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings('ignore:Profiler clears events')
@pytest.mark.parametrize(
    'family',
    [family for family in FAMILIES if family.type in ('CMT', 'ConTNet', 'SwinACmix')],
    ids=lambda family: family.type,
)
def test_inference_of_the_backbones_has_no_gelu_of_its_own_and_equals_that_with_gradients(
    family: Family,
) -> None:
    backbone = family().eval()
    randomise_norms(backbone)
    x = torch.randn(2, 3, 65, 70)
    expected = backbone(x)
    with torch.no_grad(), torch.profiler.profile() as profile:
        actual = backbone(x)
    ops = {event.key for event in profile.key_averages()}
    assert 'mmcontnet::conv_gelu' in ops
    assert 'aten::gelu' not in ops
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())
