import math
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcontnet.layers import CMTBlock, PositionBias
from mmcontnet.ops import force_reference

from ..families import randomise_norms


def reference(block: CMTBlock, x: Tensor, bias: Tensor) -> Tensor:
    """Equations 1-8 of the paper as they are written, (B, C, H, W)."""
    b, c, h, w = x.shape
    attention, ffn = block.attention, block.ffn
    heads, k = attention.num_heads, attention.reduction

    def split(tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)

    x = x + block.local(x)
    tokens = x.flatten(2).mT
    normed = block.norm1(tokens)
    source = normed
    if k > 1:
        grid = normed.mT.reshape(b, c, h, w)
        grid = F.pad(grid, (0, math.ceil(w / k) * k - w, 0, math.ceil(h / k) * k - h))
        source = attention.reduce(grid).flatten(2).mT
    q, key, value = (
        split(attention.q(normed)),
        split(attention.k(source)),
        split(attention.v(source)),
    )
    weights = torch.softmax(q @ key.mT / math.sqrt(c // heads) + bias, dim=-1)
    tokens = tokens + attention.proj((weights @ value).transpose(1, 2).flatten(2))
    y = block.norm2(tokens).mT.reshape(b, c, h, w)
    y = ffn.expand_norm(F.gelu(ffn.expand(y)))
    y = ffn.depthwise_norm(F.gelu(ffn.depthwise(y) + y))
    return tokens.mT.reshape(b, c, h, w) + ffn.project_norm(ffn.project(y))


@pytest.mark.parametrize('size', [(8, 8), (12, 8), (7, 5), (2, 3)])
@pytest.mark.parametrize('reduction', [1, 4])
@pytest.mark.parametrize('training', [True, False])
def test_block_equals_the_papers_equations_in_values_and_gradients(
    size: tuple[int, int], reduction: int, training: bool
) -> None:
    block = CMTBlock(8, 2, reduction, 20).double().train(training)
    randomise_norms(block)
    plain = deepcopy(block)
    bias = PositionBias(2, 8, reduction).double()
    x = torch.randn(2, 8, *size, dtype=torch.float64, requires_grad=True)
    rows, columns = bias(size)
    assert (columns is None) is (size == (8, 8))
    expected = reference(plain, x, rows if columns is None else rows @ columns.mT)
    actual = block(x.contiguous(memory_format=torch.channels_last), rows, columns)
    torch.testing.assert_close(actual, expected)
    seed = torch.randn_like(expected)
    actual_grads, expected_grads = (
        torch.autograd.grad(out, [x, *net.parameters(), bias.table], seed, retain_graph=True)
        for out, net in ((actual, block), (expected, plain))
    )
    torch.testing.assert_close(actual_grads, expected_grads)
    torch.testing.assert_close(dict(block.named_buffers()), dict(plain.named_buffers()))


CHANGES: dict[str, Callable[[Any], object]] = {
    'nothing': lambda ffn: None,
    'dilated': lambda ffn: setattr(
        ffn, 'depthwise', nn.Conv2d(20, 20, 3, padding=2, dilation=2, groups=20)
    ),
    'no affine': lambda ffn: setattr(
        ffn, 'expand_norm', nn.BatchNorm2d(20, affine=False).train(ffn.training)
    ),
    'average of all batches': lambda ffn: setattr(ffn.expand_norm.train(), 'momentum', None),
}


@pytest.mark.parametrize(('dtype', 'grad'), [(torch.float64, True), (torch.float32, False)])
@pytest.mark.parametrize('change', CHANGES)
def test_the_ffn_is_the_papers_whatever_its_parts_are(
    change: str, dtype: torch.dtype, grad: bool
) -> None:
    block = CMTBlock(8, 2, 4, 20).eval()
    randomise_norms(block)
    CHANGES[change](block.ffn)
    block = block.to(dtype)
    plain = deepcopy(block)
    bias = torch.randn(2, 56, 4, dtype=dtype)
    x = torch.randn(2, 8, 7, 8, dtype=dtype)
    with torch.set_grad_enabled(grad):
        actual, expected = block(x, bias, None), reference(plain, x, bias)
    tolerances = {} if grad else dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual, expected, **tolerances)
    torch.testing.assert_close(
        dict(block.named_buffers()), dict(plain.named_buffers()), **tolerances
    )


def test_statistics_of_a_single_pixel_are_refused_and_spoil_nothing() -> None:
    ffn = CMTBlock(8, 2, 1, 20).ffn
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        ffn(torch.randn(1, 8, 1, 1))
    assert all(buffer.isfinite().all() for buffer in ffn.buffers())
    assert ffn(torch.randn(2, 8, 1, 1)).isfinite().all()


def train(
    ffn: nn.Module, x: Tensor, dtype: torch.dtype, *, reference: bool
) -> tuple[list[Tensor], int]:
    """Return output, statistics and gradients in fp64, and the bytes kept for backward."""
    net = deepcopy(ffn).to(torch.promote_types(dtype, torch.float32))
    storages: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with (
        force_reference() if reference else nullcontext(),
        torch.autocast('cpu', torch.bfloat16, enabled=dtype is torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
    ):
        out = net(x.to(next(net.parameters()).dtype))
    assert out.dtype == dtype
    out.double().sin().sum().backward()
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    assert len(grads) == len(list(net.parameters()))
    return [t.detach().double() for t in (out, *net.buffers(), *grads)], sum(storages.values())


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_training_keeps_a_quarter_less_than_the_plain_steps_and_errs_as_they_do(
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    ffn, x = CMTBlock(16, 2, 1, 57).ffn, torch.randn(4, 16, 12, 13)
    exact, _ = train(ffn, x, torch.float64, reference=True)
    plain, plain_bytes = train(ffn, x, dtype, reference=True)
    actual, actual_bytes = train(ffn, x, dtype, reference=False)
    assert actual_bytes < 0.75 * plain_bytes
    # By the largest value; the two biases before a norm have no gradient but rounding.
    scales = [e.abs().max() if e.abs().max() > 1e-9 else 1 for e in exact]
    errors, allowed = (
        torch.stack([(a - e).abs().max() / s for a, e, s in zip(r, exact, scales, strict=True)])
        for r in (actual, plain)
    )
    eps = torch.finfo(dtype).eps
    assert (errors < 4 * allowed + 4 * eps).all(), (errors, allowed)  # single values err by chance
    assert errors.mean() < 2 * allowed.mean() + eps


@pytest.mark.filterwarnings('ignore')  # torch.jit.trace is deprecated, and counters' way
@pytest.mark.parametrize('grad', [True, False])
def test_exported_programs_hold_the_papers_steps(grad: bool) -> None:
    ffn = CMTBlock(8, 2, 1, 20).ffn.eval()
    x = torch.randn(1, 8, 5, 6)
    with torch.set_grad_enabled(grad):
        exported = [str(node.target) for node in torch.export.export(ffn, (x,)).graph.nodes]
        traced = torch.jit.trace(ffn, x, check_trace=False).inlined_graph
    for steps in (exported, [node.kind() for node in traced.nodes()]):
        assert sum('batch_norm' in step for step in steps) == 3
