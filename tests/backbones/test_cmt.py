import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmcontnet.backbones import CMT
from mmcontnet.necks import CMTNeck

from .. import families
from ..families import ALL


@pytest.mark.parametrize(
    ('arch', 'params'),
    [('ti', 9_492_426), ('xs', 15_247_208), ('s', 26_256_160), ('b', 45_715_076)],
)
def test_parameter_counts_are_the_authors(arch: str, params: int) -> None:
    with torch.device('meta'):
        backbone = CMT(arch)
        classifier = [CMTNeck(backbone.out_channels[-1]), nn.Linear(1280, 1000)]
    assert sum(p.numel() for m in (backbone, *classifier) for p in m.parameters()) == params


def test_the_largest_network_has_the_size_that_the_paper_prints() -> None:
    with torch.device('meta'):
        backbone = CMT('l')
        classifier = [CMTNeck(backbone.out_channels[-1]), nn.Linear(1280, 1000)]
        image = torch.empty(1, 3, 288, 288)
    count = sum(p.numel() for m in (backbone, *classifier) for p in m.parameters())
    assert count == 74_893_320
    assert count == pytest.approx(74.7e6, rel=0.03)
    with FlopCounterMode(display=False) as counter:
        nn.Sequential(backbone, *classifier[:1]).eval()(image)
    assert counter.get_total_flops() / 2 == pytest.approx(19.5e9, rel=0.03)


def test_weights_of_another_image_size_load_and_are_those_of_the_resized_bias() -> None:
    source = CMT(families.CMT, out_indices=ALL).eval()
    loaded = CMT(families.CMT, img_size=96, out_indices=ALL).eval()
    loaded.load_state_dict(source.state_dict(), strict=True)
    assert loaded.stages[0].position_bias.table.shape == (1, 24 * 24, 9)
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        for actual, expected in zip(loaded(x), source(x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(img_size=200), 'img_size must be a positive multiple of 32, got 200'),
        (dict(img_size=0), 'img_size must be'),
        (dict(bias_resize='bilinear'), "one of 'spatial', 'matrix', got 'bilinear'"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CMT(**kwargs)
