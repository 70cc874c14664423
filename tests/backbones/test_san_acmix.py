"""What SANACmix has of its own; the contract of all backbones is tested elsewhere."""

import pytest
import torch
from torch import nn

from mmcontnet.backbones import SANACmix
from mmcontnet.layers import SANBlock

from ..families import parameters_of_acmix


@pytest.mark.parametrize(
    ('arch', 'host', 'paper'),
    [('10', 11_841_124, 12.1e6), ('15', 16_181_310, 16.6e6), ('19', 20_518_470, 21.2e6)],
)
def test_parameters_are_those_of_san_and_the_papers_within_two_percent(
    arch: str, host: int, paper: float
) -> None:
    with torch.device('meta'):
        classifier = nn.ModuleList([SANACmix(arch), nn.Linear(2048, 1000)])
    total = sum(p.numel() for p in classifier.parameters())
    assert total - parameters_of_acmix(classifier) == host
    assert total == pytest.approx(paper, rel=0.02)


def test_windows_are_3x3_at_stride_2_and_7x7_from_stride_4_on() -> None:
    with torch.device('meta'):
        backbone = SANACmix('10')
    sizes = [
        [block.acmix.kernel_size for block in part if isinstance(block, SANBlock)]
        for part in (backbone.stem, *backbone.stages)
    ]
    assert sizes == [[3, 3], [7], [7, 7], [7] * 4, [7]]
