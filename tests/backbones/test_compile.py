"""PyTorch's compilers take the backbones whole, at a fixed size."""

import pytest
import torch

from mmcontnet.backbones import ConTNet

from ..families import ALL, CONTNET, FAMILIES, POOL, Family

DILATED = dict(POOL, output_stride=8, pos_encoding='relative', pre_norm=True)
# ConTNet with pools is dilated here.
NETWORKS = [family for family in FAMILIES if family.kwargs != POOL]
every_network = pytest.mark.parametrize(
    'family',
    [*NETWORKS, FAMILIES[0]._replace(kwargs=DILATED)],
    ids=[*(family.type for family in NETWORKS), 'ConTNet, dilated'],
)
# Neither side is a multiple of patches or windows in any stage.
SIZE = (70, 50)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.manual_seed(0)
    # Every network here is another compilation of the same forward, and their number is limited.
    torch.compiler.reset()


@pytest.mark.slow
@every_network
def test_compiles_without_graph_breaks_forward_and_backward(family: Family) -> None:
    backbone = family(out_indices=(0, 1), drop_path_rate=0.1)
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
    backbone = ConTNet({**CONTNET, 'depths': (1, 1, 1, 1)}, out_indices=(0,)).eval()
    image = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        (compiled,) = torch.compile(backbone, fullgraph=True, dynamic=False)(image)
        (expected,) = backbone(image)
    # Relative to the largest: small values are differences of large ones.
    torch.testing.assert_close(compiled, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@every_network
def test_exports_at_a_fixed_shape(family: Family) -> None:
    if family.type == 'CoTNet' and torch.__version__.startswith('2.4'):
        pytest.skip('PyTorch 2.4 records a view of torch.stack that does not fit its strides')
    backbone = family(out_indices=ALL).eval()
    image = torch.randn(1, 3, *SIZE)
    program = torch.export.export(backbone, (image,))
    expected = backbone(image)  # as above
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image), expected)
