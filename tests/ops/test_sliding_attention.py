"""Sliding attention: the reference against its definition, and tiles against the reference."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmcontnet.analysis.complexity import count
from mmcontnet.ops import sliding_attention

# (H, W), kernel size, stride: maps smaller than the window and its border, one pixel,
# odd maps at stride 2, maps of several tiles that no tile divides.
CASES = [
    ((1, 1), 7, 1),
    ((1, 1), 7, 2),
    ((3, 2), 7, 1),
    ((3, 5), 7, 2),
    ((7, 7), 7, 1),
    ((8, 15), 7, 1),
    ((15, 22), 7, 2),
    ((11, 6), 5, 3),
    ((5, 9), 1, 1),
]


def make_inputs(
    size: tuple[int, int], dtype: torch.dtype = torch.float64, batch: int = 2
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (3, batch, 4, 8, *size)
    return list(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).unbind())


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('impl', ['reference', 'tiles'])
def test_every_way_computes_the_definition(case: tuple, impl: str) -> None:
    (h, w), kernel_size, stride = case
    q, k, v = (x[:1, :2, :3] for x in make_inputs((h, w)))
    actual = sliding_attention(q, k, v, kernel_size, stride=stride, impl=impl)
    half = kernel_size // 2
    steps = range(-half, half + 1)
    # NumPy reflects as often as it must.
    rows, cols = (np.pad(np.arange(n), half, mode='reflect') for n in (h, w))
    expected = torch.empty_like(actual)
    for head, (i, y), (j, x) in itertools.product(
        range(2), enumerate(range(0, h, stride)), enumerate(range(0, w, stride))
    ):
        window = [(rows[y + half + a], cols[x + half + b]) for a in steps for b in steps]
        keys = torch.stack([k[0, head, :, r, c] for r, c in window])
        values = torch.stack([v[0, head, :, r, c] for r, c in window])
        weights = (keys @ q[0, head, :, y, x] / 3**0.5).softmax(0)
        expected[0, head, :, i, j] = weights @ values
    assert actual.shape == (1, 2, 3, -(-h // stride), -(-w // stride))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('channels_last', [False, True])
def test_tiles_equal_the_reference_in_values_and_gradients(
    case: tuple, channels_last: bool
) -> None:
    size, kernel_size, stride = case
    results = []
    for impl in ('reference', 'tiles'):
        qkv = [x.requires_grad_() for x in make_inputs(size, torch.float32)]
        inputs = [x.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) for x in qkv]
        inputs = inputs if channels_last else qkv
        out = sliding_attention(*inputs, kernel_size, stride=stride, impl=impl)
        generator = torch.Generator().manual_seed(1)
        grads = torch.autograd.grad(out, qkv, torch.randn(out.shape, generator=generator))
        results.append([out, *grads])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_errs_as_much_as_its_rounding(dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in make_inputs((15, 8))]
    out = sliding_attention(*inputs)
    assert out.dtype == dtype
    expected = sliding_attention(*(x.double() for x in inputs))
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), expected, rtol=4 * eps, atol=4 * eps)


def test_batch_of_no_images() -> None:
    out = sliding_attention(*make_inputs((9, 8), batch=0), stride=2)
    assert out.shape == (0, 4, 8, 5, 4)


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu_tiles_equal_the_reference(dtype: torch.dtype) -> None:
    qkv = [x.to('cuda', dtype).requires_grad_() for x in make_inputs((29, 22))]
    exact = [x.detach().double().requires_grad_() for x in qkv]
    results = []
    for inputs, impl in ((exact, 'reference'), (qkv, 'tiles')):
        out = sliding_attention(*inputs, stride=2, impl=impl)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    # The fused kernel emulates products in fp32 by some in TF32.
    eps = (32 if dtype == torch.float32 else 8) * torch.finfo(dtype).eps
    for expected, actual in zip(*results, strict=True):
        error = (actual.double() - expected).abs().max() / expected.abs().max()
        assert float(error) < eps


@pytest.mark.gpu
def test_on_a_gpu_there_may_be_more_windows_than_a_kernel_takes() -> None:
    q, k, v = torch.randn(3, 300, 4, 8, 56, 56, device='cuda').unbind()
    with torch.no_grad():  # 64 tiles of 4 heads for each of 300 images
        out = sliding_attention(q, k, v)
        torch.testing.assert_close(out[-1:], sliding_attention(q[-1:], k[-1:], v[-1:]))


class Sliding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return sliding_attention(x, x, x, 5)


def test_counted_are_the_products_within_windows_whichever_way_is_computed() -> None:
    total = count(Sliding(), torch.empty(1, 4, 8, 20, 30)).total
    assert total.multiply_adds == total.attention == 2 * 25 * 4 * 8 * 20 * 30


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(kernel_size=4), 'kernel_size=4'),
        (dict(stride=0), 'stride=0'),
        (dict(impl='fast'), "'reference', 'tiles', got 'fast'"),
    ],
)
def test_mistakes_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sliding_attention(*make_inputs((4, 4)), **options)
    q, k, v = make_inputs((4, 4))
    with pytest.raises(ValueError, match=r'one shape \(B, heads, D, H, W\)'):
        sliding_attention(q, k[..., 1:], v)
