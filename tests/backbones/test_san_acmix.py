"""What SANACmix has of its own; the contract of all backbones is tested elsewhere."""

import pytest
import torch
from torch import nn

from mmcontnet.backbones import SANACmix
from mmcontnet.layers import ConvolutionPath, PathSum, SANBlock

from .. import families


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
    added = sum(
        p.numel()
        for module in classifier.modules()
        if isinstance(module, (ConvolutionPath, PathSum))
        for p in module.parameters()
    )
    assert total - added == host
    assert total == pytest.approx(paper, rel=0.02)


def test_windows_are_3x3_at_stride_2_and_7x7_from_stride_4_on() -> None:
    with torch.device('meta'):
        backbone = SANACmix('10')
    sizes = [
        [block.acmix.kernel_size for block in part if isinstance(block, SANBlock)]
        for part in (backbone.stem, *backbone.stages)
    ]
    assert sizes == [[3, 3], [7], [7, 7], [7] * 4, [7]]


def test_the_blocks_of_the_stem_are_recomputed_too() -> None:
    backbone = SANACmix(families.SAN_ACMIX, with_cp=True)
    calls: list[nn.Module] = []
    for block in backbone.stem:
        block.register_forward_pre_hook(lambda block, _: calls.append(block))
    backbone(torch.randn(2, 3, 32, 32))[0].sum().backward()
    assert calls == [*backbone.stem, *reversed([*backbone.stem])]


def test_all_blocks_add_up_their_paths_as_combine_says() -> None:
    backbone = SANACmix(families.SAN_ACMIX, combine='complement')
    combines = [module.combine for module in backbone.modules() if isinstance(module, PathSum)]
    assert combines == ['complement'] * 6
    with pytest.raises(ValueError, match="combine must be one of 'rates', .* got 'none'"):
        SANACmix(families.SAN_ACMIX, combine='none')
