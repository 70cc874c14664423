from importlib import import_module

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mmcontnet.ops import attention, low_rank_biased_attention

MODULE = import_module('mmcontnet.ops.attention')


@pytest.mark.parametrize('bias_shape', [None, (2, 5, 5), (3, 2, 5, 5)], ids=str)
def test_chunked_attention_equals_the_plain_formula_in_values_and_gradients(
    bias_shape: tuple[int, ...] | None,
) -> None:
    q, k, v = (torch.randn(6, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    inputs = (q, k, v)
    logits = q @ k.transpose(-2, -1) / 4**0.5
    if bias_shape:
        bias = torch.randn(bias_shape, dtype=torch.float64, requires_grad=True)
        inputs = (*inputs, bias)
        # Where there is one for each of three windows: the first is the fourth's, too.
        logits = logits + (torch.cat([bias, bias]) if len(bias_shape) == 4 else bias)
    expected = torch.softmax(logits, dim=-1) @ v
    seed = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, inputs, seed)
    # None: one call; 8: chunks of four windows; 1: less than one window's heads.
    for max_batch in (None, 8, 1):
        actual = attention(*inputs, max_batch=max_batch)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(torch.autograd.grad(actual, inputs, seed), expected_grads)
        # Without gradients a bias is added by the fused kernel.
        with torch.no_grad():
            torch.testing.assert_close(attention(*inputs, max_batch=max_batch), expected)


@pytest.mark.parametrize('scale', [None, 0.7])
def test_chunks_share_a_bias_with_its_gradient(scale: float | None) -> None:
    """As on a GPU, where PyTorch's kernels take it."""
    inputs = [torch.randn(6, 2, 5, 4, dtype=torch.float64) for _ in range(3)]
    inputs = [x.requires_grad_() for x in (*inputs, torch.randn(1, 2, 5, 5, dtype=torch.float64))]
    results = []
    for max_batch in (None, 8):
        out = MODULE._fused(*inputs[:3], max_batch, inputs[3], scale)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    torch.testing.assert_close(*results)


def test_queries_in_parts_give_the_same_values_and_gradients() -> None:
    inputs = [torch.randn(3, 2, n, 4, dtype=torch.float64, requires_grad=True) for n in (24, 5, 5)]
    expected = scaled_dot_product_attention(*inputs)
    actual = scaled_dot_product_attention(*MODULE._spread(*inputs, 4)).reshape(expected.shape)
    torch.testing.assert_close(actual, expected)
    seed = torch.randn_like(expected)
    grads = (torch.autograd.grad(out, inputs, seed) for out in (actual, expected))
    torch.testing.assert_close(*grads)


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('rank', [0, 49])
def test_on_a_gpu_few_keys_and_many_queries(rank: int, dtype: torch.dtype) -> None:
    """At a detector's sizes; compared with the same in fp64 on the CPU."""
    shapes = [(1, 2, 4096, 64), (1, 2, 200, 64), (1, 2, 200, 64), (2, 4096, rank), (200, rank)]
    exact = [torch.randn(s, dtype=torch.float64) for s in shapes]
    for factor in exact[3:]:  # their product is then as large as the scaled logits
        factor /= max(rank, 1) ** 0.25
    exact = [x.to(dtype).double() for x in exact]
    inputs = [x.to('cuda', dtype).requires_grad_() for x in exact[: 5 if rank else 3]]
    exact = [x.requires_grad_() for x in exact[: len(inputs)]]
    assert MODULE._splits(*inputs[:2]) == 8
    compute = low_rank_biased_attention if rank else attention
    results = [
        (out := compute(*given), *torch.autograd.grad(out.square().sum(), given))
        for given in (exact, inputs)
    ]
    eps = (32 if dtype == torch.float32 else 4) * torch.finfo(dtype).eps
    for e, a in zip(*results, strict=True):
        assert (a.double().cpu() - e).abs().max() < eps * e.abs().max()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_the_bias_may_be_wider_than_the_queries(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(3, 2, 5, 4, dtype=dtype) for _ in range(3))
    out = attention(q, k, v, torch.randn(2, 5, 5))
    assert out.dtype == dtype
    assert out.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_bias_in_factors_is_their_product_in_values_and_gradients(dtype: torch.dtype) -> None:
    """Half precision is compared with the reference in fp32, of the same rounded inputs."""
    shapes = [(3, 2, 20, 8), (3, 2, 6, 8), (3, 2, 6, 8), (2, 20, 5), (6, 5)]
    inputs = [torch.randn(shape).to(dtype).requires_grad_(i < 4) for i, shape in enumerate(shapes)]
    actual = low_rank_biased_attention(*inputs)
    assert actual.dtype == dtype
    precise = torch.float64 if dtype is torch.float64 else torch.float32
    q, k, v, rows, columns = (x.to(precise) for x in inputs)
    expected = torch.softmax(q @ k.mT / 8**0.5 + rows @ columns.mT, dim=-1) @ v
    seed = torch.randn_like(expected)
    results = [
        (out, *torch.autograd.grad(out, inputs[:4], seed.to(out.dtype)))
        for out in (actual, expected)
    ]
    # Sums of rounded terms: by the largest value.
    eps = (4 if dtype.itemsize == 2 else 16) * torch.finfo(dtype).eps
    for ours, theirs in zip(*results, strict=True):
        atol = eps * float(theirs.detach().abs().max())
        torch.testing.assert_close(ours.to(precise), theirs.to(precise), rtol=0, atol=atol)


@pytest.mark.parametrize('half', [False, True])
def test_a_bias_in_factors_never_exists_as_a_whole(half: bool) -> None:
    shapes = [(2, 2, 256, 8), (2, 2, 64, 8), (2, 2, 64, 8), (2, 256, 5), (64, 5)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    dtype = torch.bfloat16 if half else torch.float32
    storages: dict[int, int] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with (
        torch.autocast('cpu', torch.bfloat16, enabled=half),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
    ):
        out = low_rank_biased_attention(*(x.to(dtype) for x in inputs[:3]), *inputs[3:])
    assert out.dtype == dtype
    # Of the logits (2, 2, 256, 64): queries and output with their factors are 13 channels each.
    assert sum(storages.values()) < 0.75 * 2 * 2 * 256 * 64 * dtype.itemsize
