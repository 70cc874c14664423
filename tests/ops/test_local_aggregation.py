"""Local aggregation: the reference against its formula, and every other implementation against it.

As a program, with TRITON_INTERPRET=1, this checks the Triton kernels on a CPU.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmcontnet.analysis.complexity import count
from mmcontnet.ops import local_aggregation

# The package gives the function this name.
MODULE = import_module('mmcontnet.ops.local_aggregation')

Case = tuple[tuple[int, int, int, int], int, int]

# (B, C, H, W), G, kernel size: CoTNeXt's widths, odd sizes, maps smaller than the kernel.
CASES: list[Case] = [
    ((2, 12, 5, 7), 3, 3),
    ((1, 96, 6, 5), 12, 3),
    ((1, 192, 2, 3), 24, 3),
    ((2, 8, 9, 4), 1, 5),
    ((1, 10, 8, 3), 5, 7),
    ((3, 4, 1, 1), 4, 3),
    ((1, 4, 3, 2), 2, 3),
    ((1, 6, 4, 4), 2, 1),
    ((0, 6, 4, 4), 2, 3),
    ((2, 32, 5, 4), 16, 3),
]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    'contiguous': Tensor.contiguous,
    'channels_last': lambda x: x.contiguous(memory_format=torch.channels_last),
    # CoTNeXt aggregates its channels in two halves.
    'half of channels_last': lambda x: (
        torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last).chunk(2, 1)[1]
    ),
    'transposed': lambda x: x.mT.contiguous().mT,
}


class Width(NamedTuple):
    """A local aggregation of a network, and the side of its map for images of 224 pixels."""

    channels: int
    groups: int
    kernel_size: int
    side: int
    margin: int = 0


# tests/backbones/test_fake_cuda.py checks that networks have no others.
COTNET = [Width(c, c // 8, 3, side) for c, side in ((64, 56), (128, 28), (256, 14), (512, 7))]
COTNEXT = [Width(c, c // 8, 3, side) for c, side in ((48, 56), (96, 28), (192, 14), (384, 7))]
SAN = [
    Width(16, 2, 3, 112, 1),
    *(Width(c, c // 8, 7, side, 3) for c, side in ((64, 56), (128, 28), (256, 14), (512, 7))),
]


def make_inputs(
    case: Case,
    layout: str = 'contiguous',
    device: str = 'cpu',
    dtype: torch.dtype = torch.float64,
    *,
    with_margin: bool = False,
) -> tuple[Tensor, Tensor]:
    (b, c, h, w), groups, kernel_size = case
    more = kernel_size // 2 * 2 if with_margin else 0
    shapes = (b, c, h + more, w + more), (b, groups * kernel_size**2, h, w)
    generator = torch.Generator().manual_seed(0)
    value, weight = (
        LAYOUTS[layout](torch.randn(s, generator=generator).to(device, dtype)).requires_grad_()
        for s in shapes
    )
    return value, weight


def values_and_gradients(impl: str | None, case: Case, *inputs: Tensor) -> tuple[Tensor, ...]:
    out = local_aggregation(*inputs, case[2], impl=impl)
    # Expanded, as the gradient of a mean is, and exact in every dtype.
    seed = ((torch.arange(out.shape[1], device=out.device) % 16 - 8) / 8).to(out.dtype)
    grads = torch.autograd.grad(out, inputs, seed[:, None, None].expand_as(out))
    assert out.dtype == inputs[0].dtype
    assert out.shape == (*inputs[0].shape[:2], *inputs[1].shape[2:])
    for tensor, like in zip(grads, inputs, strict=True):
        assert tensor.dtype == like.dtype
        assert tensor.shape == like.shape
    return out, *grads


def check_against_the_reference(impl: str | None, case: Case, *inputs: Tensor) -> None:
    actual = values_and_gradients(impl, case, *inputs)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = values_and_gradients('reference', case, *exact)
    for a, e in zip(actual, expected, strict=True):
        # fp32 to 1e-5, and half precision to its own rounding: sums are in fp32.
        half = torch.finfo(a.dtype).eps if a.dtype.itemsize == 2 else 0
        torch.testing.assert_close(a.double(), e, rtol=1e-5 + half, atol=1e-5)


@pytest.mark.parametrize('with_margin', [False, True])
@pytest.mark.parametrize('case', CASES)
def test_the_reference_equals_the_formula_written_out(case: Case, with_margin: bool) -> None:
    (_, c, h, w), groups, kernel_size = case
    value, weight = (x.detach() for x in make_inputs(case, with_margin=with_margin))
    # Beyond the border is 0, or the margin that the values have.
    padded = value if with_margin else nn.functional.pad(value, [kernel_size // 2] * 4)
    expected = torch.zeros(case[0], dtype=value.dtype)
    for channel, i, j in itertools.product(range(c), range(kernel_size), range(kernel_size)):
        tap = weight[:, (channel % groups) * kernel_size**2 + i * kernel_size + j]
        expected[:, channel] += tap * padded[:, channel, i : i + h, j : j + w]
    actual = local_aggregation(value, weight, kernel_size, impl='reference')
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('with_margin', [False, True])
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('case', CASES)
def test_the_eager_way_equals_the_reference_in_every_layout(
    case: Case, layout: str, with_margin: bool
) -> None:
    inputs = make_inputs(case, layout, with_margin=with_margin)
    check_against_the_reference('eager', case, *inputs)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('impl', ['reference', 'eager'])
def test_sums_are_in_fp32_whatever_the_dtype(impl: str, dtype: torch.dtype) -> None:
    for case in CASES:
        check_against_the_reference(impl, case, *make_inputs(case, 'channels_last', dtype=dtype))


@pytest.mark.parametrize('impl', ['reference', 'eager'])
def test_value_and_weight_may_differ_in_dtype_as_under_autocast(impl: str) -> None:
    value, weight = make_inputs(CASES[0], dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        check_against_the_reference(impl, CASES[0], value, weight.bfloat16())
        check_against_the_reference(impl, CASES[0], value.bfloat16(), weight)


@pytest.mark.parametrize('layout', ['contiguous', 'channels_last', 'half of channels_last'])
def test_the_output_keeps_the_memory_format(layout: str) -> None:
    contiguous = layout == 'contiguous'
    memory_format = torch.contiguous_format if contiguous else torch.channels_last
    for with_margin in (False, True):
        out = local_aggregation(*make_inputs(CASES[0], layout, with_margin=with_margin))
        assert out.is_contiguous(memory_format=memory_format)


def test_the_eager_way_keeps_nothing_but_its_inputs_for_backward() -> None:
    value, weight = make_inputs(CASES[0])
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()), id):
        local_aggregation(value, weight)
    assert sorted(kept) == sorted([value.data_ptr(), weight.data_ptr()])


def test_the_op_keeps_the_rules_that_compilers_rely_on() -> None:
    for layout, with_margin in (('contiguous', True), ('half of channels_last', False)):
        inputs = make_inputs(CASES[0], layout, with_margin=with_margin)
        torch.library.opcheck(torch.ops.mmcontnet.local_aggregation, (*inputs, 3, 'eager'))
        value, weight = (x.detach() for x in inputs)
        grad = local_aggregation(value, weight)
        torch.library.opcheck(
            torch.ops.mmcontnet.local_aggregation_backward, (grad, value, weight, 3, 'eager')
        )


class Aggregation(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return local_aggregation(value, value[:, :9])


class AggregationWithMargin(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return local_aggregation(value, value[:, :9, 1:-1, 1:-1])


@pytest.mark.parametrize(('module', 'pixels'), [(Aggregation(), 35), (AggregationWithMargin(), 15)])
def test_multiply_adds_are_counted_on_shapes_alone(module: nn.Module, pixels: int) -> None:
    cost = count(module, torch.randn(2, 12, 5, 7)).total
    assert cost.multiply_adds == 2 * 12 * pixels * 9


def test_fake_cuda_tensors_have_the_shapes_and_formats_of_real_ones() -> None:
    ops = torch.ops.mmcontnet
    with FakeTensorMode():
        value = torch.empty(2, 12, 5, 7, device='cuda').to(memory_format=torch.channels_last)
        weight = torch.empty(2, 27, 5, 7, device='cuda', dtype=torch.bfloat16)
        out = local_aggregation(value, weight, impl='triton')
        # Where there is no GPU, autograd refuses even fake tensors on one.
        grads = ops.local_aggregation_backward(out, value, weight, 3, 'triton')
    for tensor, like in zip((out, *grads), (value, value, weight), strict=True):
        assert tensor.shape == like.shape
        assert tensor.stride() == like.stride()
        assert tensor.dtype == like.dtype
        assert tensor.device == like.device


@pytest.mark.parametrize(
    ('value', 'weight', 'settings', 'message'),
    [
        ((1, 8, 4, 4), (1, 36, 4, 4), dict(kernel_size=2), 'odd kernel sizes, got kernel_size=2'),
        ((1, 8, 4, 4), (1, 27, 4, 4), {}, r'G divides 8'),
        ((1, 8, 4, 4), (1, 35, 4, 4), {}, r'\(1, G \* 9, 4, 4\).*got \(1, 35, 4, 4\)'),
        ((1, 8, 4, 4), (1, 8, 4, 4), {}, r'got \(1, 8, 4, 4\)'),
        ((1, 8, 4, 4), (1, 36, 4, 5), {}, r'got \(1, 36, 4, 5\)'),
        ((1, 8, 6, 6), (1, 36, 4, 6), {}, r'smaller by 2 pixels if .* margin, got \(1, 36, 4, 6\)'),
        ((2, 8, 4, 4), (1, 36, 4, 4), {}, r'\(2, G \* 9, 4, 4\)'),
        ((1, 8, 4, 4), (1, 36, 4, 4), dict(impl='cuda'), "'reference', 'eager', 'triton'"),
    ],
)
def test_what_cannot_be_computed_is_named(
    value: tuple, weight: tuple, settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        local_aggregation(torch.randn(value), torch.randn(weight), **settings)


def check_kernels(device: str) -> str:
    # Small maps then have several tiles in every direction, the last of them in part.
    import_module('mmcontnet.ops.local_aggregation_triton')._TILE = 64
    case: Case = (1, 6, 3, 5), 3, 3
    runs: list[tuple[Case, str, tuple[torch.dtype, torch.dtype]]] = [
        *((case, layout, (torch.float32, torch.float32)) for layout in LAYOUTS),
        (case, 'channels_last', (torch.float16, torch.float16)),
        (case, 'channels_last', (torch.bfloat16, torch.bfloat16)),
        (case, 'contiguous', (torch.bfloat16, torch.float32)),
        (((1, 18, 2, 5), 9, 3), 'channels_last', (torch.float32, torch.float32)),
        (((2, 3, 2, 3), 1, 5), 'contiguous', (torch.float32, torch.float32)),
        (((1, 3, 3, 3), 1, 7), 'channels_last', (torch.float32, torch.float32)),
        (((0, 6, 4, 4), 2, 3), 'contiguous', (torch.float32, torch.float32)),
    ]
    margins = runs[:2]
    for i, (case, layout, dtypes) in enumerate(runs + margins):
        inputs = make_inputs(case, layout, device, with_margin=i >= len(runs))
        inputs = [x.to(dtype) for x, dtype in zip(inputs, dtypes, strict=True)]
        check_against_the_reference('triton', case, *inputs)
    return f'{len(runs + margins)} comparisons'


@pytest.mark.gpu
def test_the_kernels_equal_the_reference() -> None:
    check_kernels('cuda')
    for width in COTNET:
        case: Case = (4, width.channels, width.side, width.side), width.groups, width.kernel_size
        for layout in ('contiguous', 'channels_last'):
            inputs = make_inputs(case, layout, 'cuda', torch.float32)
            check_against_the_reference(None, case, *inputs)


@pytest.mark.slow
@pytest.mark.skipif(not MODULE._TRITON, reason='needs Triton')
def test_the_kernels_equal_the_reference_in_tritons_interpreter() -> None:
    env = dict(os.environ, TRITON_INTERPRET='1')
    run = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == '13 comparisons\n'


def test_without_triton_the_op_works_and_warns_of_nothing() -> None:
    program = (
        "import runpy, sys; sys.modules['triton'] = None\n"
        "local_aggregation = runpy.run_path(sys.argv[1])['local_aggregation']\n"
        'import torch; value = torch.ones(1, 8, 4, 4, requires_grad=True)\n'
        'local_aggregation(value, torch.ones(1, 9, 4, 4)).sum().backward()\n'
        'print(value.grad.sum())'
    )
    command = [sys.executable, '-c', program, MODULE.__file__]
    run = subprocess.run(command, capture_output=True, text=True)
    # Of 8 channels with 16 pixels, each is a neighbour of up to 9: of 100 in all.
    assert (run.returncode, run.stdout, run.stderr) == (0, 'tensor(800.)\n', '')


if __name__ == '__main__':
    print(check_kernels('cpu'))
