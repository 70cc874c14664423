"""PyTorch's compilers take the backbones whole, at a fixed size."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from mmcontnet.backbones import (
    CMT,
    ConTNet,
    CoTNet,
    PVTACmix,
    ResNetACmix,
    SANACmix,
    SwinACmix,
)
from mmcontnet.backbones.base import HybridBackbone

from .. import families

BACKBONES = {
    'ConTNet': partial(ConTNet, 'ti'),
    'ConTNet, dense prediction': partial(
        ConTNet, 'ti', downsample='pool', output_stride=8, pos_encoding='relative', pre_norm=True
    ),
    'CMT': partial(CMT, families.CMT),
    'CoTNet': partial(CoTNet, families.COTNET),
    'ResNetACmix': partial(ResNetACmix, families.RESNET_ACMIX),
    'SwinACmix': partial(SwinACmix, families.SWIN_ACMIX),
    'SANACmix': partial(SANACmix, families.SAN_ACMIX),
    'PVTACmix': partial(PVTACmix, families.PVT_ACMIX),
}
every_backbone = pytest.mark.parametrize('build', BACKBONES.values(), ids=BACKBONES)
# Neither side is a multiple of patches or windows in any stage.
SIZE = (70, 50)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.manual_seed(0)
    # Every network here is another compilation of the same forward, and their number is limited.
    torch.compiler.reset()


@every_backbone
def test_compiles_without_graph_breaks_forward_and_backward(
    build: Callable[..., HybridBackbone],
) -> None:
    backbone = build(out_indices=(0, 1), drop_path_rate=0.1)
    image = torch.randn(2, 3, *SIZE)
    # Traces and splits into forward and backward as the default backend does; generates no code.
    compiled = torch.compile(backbone, fullgraph=True, dynamic=False, backend='aot_eager')
    sum(out.square().mean() for out in compiled(image)).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []
    backbone.eval()
    # With gradients: without them and without a compiler fewer steps are taken, which round
    # otherwise.
    expected = backbone(image)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), expected)


@pytest.mark.slow
def test_generated_code_computes_the_same() -> None:
    backbone = ConTNet('ti', downsample='pool', out_indices=(0,)).eval()
    image = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        (compiled,) = torch.compile(backbone, fullgraph=True, dynamic=False)(image)
        (expected,) = backbone(image)
    # Relative to the largest: small values are differences of large ones.
    torch.testing.assert_close(compiled, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@every_backbone
def test_exports_at_a_fixed_shape(build: Callable[..., HybridBackbone]) -> None:
    if build is BACKBONES['CoTNet'] and torch.__version__.startswith('2.4'):
        pytest.skip('PyTorch 2.4 records a view of torch.stack that does not fit its strides')
    backbone = build(out_indices=(0, 1, 2, 3)).eval()
    image = torch.randn(1, 3, *SIZE)
    program = torch.export.export(backbone, (image,))
    expected = backbone(image)  # as above
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image), expected)
