from typing import Any

import pytest
import torch
from torch import nn

from mmcontnet.backbones import CoTNet, ResNetACmix
from mmcontnet.backbones.cotnet import BlurPool
from mmcontnet.layers import Bottleneck, CoTLayer

from .. import families


def test_only_se_cotnetd152_strides_by_a_blur_after_the_layer() -> None:
    for arch, blurs, pools in (('se-d152', 4, 0), ('se-d101', 0, 2), ('101', 0, 3)):
        with torch.device('meta'):
            modules = list(CoTNet(arch).modules())
        assert sum(isinstance(m, BlurPool) for m in modules) == blurs
        assert sum(isinstance(m, nn.AvgPool2d) for m in modules) == pools


@pytest.mark.parametrize('size', [(1, 1), (1, 6), (7, 6)])
def test_blur_keeps_a_constant_and_halves_the_sides_upwards(size: tuple[int, int]) -> None:
    made = BlurPool()(torch.full((2, 3, *size), 5.0))
    assert made.shape == (2, 3, -(-size[0] // 2), -(-size[1] // 2))
    torch.testing.assert_close(made, torch.full_like(made, 5.0))


def test_blur_weights_a_pixel_and_its_neighbours_binomially() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[..., 2, 2] = 16.0
    assert BlurPool()(image).tolist() == [[[[0, 0], [0, 4]]]]
    image = torch.zeros(1, 1, 4, 4)
    image[..., 1, 1] = 16.0
    # Beyond the edge lies the reflection of the second row and column.
    assert BlurPool()(image).tolist() == [[[[4, 2], [2, 1]]]]


@pytest.mark.parametrize('cot_stages', [(3,), (1, 2), (0, 1, 2, 3)])
def test_cot_layers_are_in_the_stages_asked_for(cot_stages: tuple[int, ...]) -> None:
    backbone = CoTNet('50', cot_stages=cot_stages)
    found = [any(isinstance(m, CoTLayer) for m in stage.modules()) for stage in backbone.stages]
    assert found == [i in cot_stages for i in range(4)]


def test_without_cot_layers_it_is_a_resnet() -> None:
    backbone = CoTNet('50', cot_stages=())
    layers = [block.layer[0] for stage in backbone.stages for block in stage]
    assert all(isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) for layer in layers)
    # ResNet-50 less its classifier.
    assert sum(p.numel() for p in backbone.parameters()) == 25_557_032 - 1000 * (2048 + 1)


@pytest.mark.parametrize('backbone', [CoTNet, ResNetACmix])
def test_zero_init_residual_starts_bottlenecks_as_their_shortcuts(backbone: Any) -> None:
    arch = dict(families.COTNET if backbone is CoTNet else families.RESNET_ACMIX)
    for zero in (True, False):
        network = backbone(arch, zero_init_residual=zero).eval()
        blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
        assert len(blocks) == 5
        for block in blocks:
            if block.shortcut is None:
                x = torch.rand(2, block.conv1.in_channels, 8, 8)
                assert torch.equal(block(x), x) == zero
    # As the released networks start.
    assert backbone(arch).stages[0][0].norm3.weight.any() == (backbone is ResNetACmix)
