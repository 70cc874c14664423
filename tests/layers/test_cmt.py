import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcontnet.layers import CMTBlock, PositionBias


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
def test_block_equals_the_papers_equations_in_values_and_gradients(
    size: tuple[int, int], reduction: int
) -> None:
    block = CMTBlock(8, 2, reduction, 20).double().eval()
    bias = PositionBias(2, 8, reduction).double()
    x = torch.randn(2, 8, *size, dtype=torch.float64, requires_grad=True)
    rows, columns = bias(size)
    assert (columns is None) is (size == (8, 8))
    inputs = [x, *block.parameters(), bias.table]
    expected = reference(block, x, rows if columns is None else rows @ columns.mT)
    actual = block(x.contiguous(memory_format=torch.channels_last), rows, columns)
    torch.testing.assert_close(actual, expected)
    seed = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, seed), torch.autograd.grad(expected, inputs, seed)
    )


def test_inference_with_a_whole_bias_equals_training_with_its_factors() -> None:
    block, bias = CMTBlock(8, 2, 4, 20).eval(), PositionBias(2, 8, 4)
    x = torch.randn(2, 8, 10, 13)
    with torch.no_grad():
        whole = bias((10, 13))
        assert whole[1] is None
        inferred = block(x, *whole)
    torch.testing.assert_close(block(x, *bias((10, 13))), inferred, rtol=1e-4, atol=1e-5)


def test_every_pixel_is_part_of_a_key() -> None:
    attention = CMTBlock(8, 2, 4, 20).eval().attention
    tokens = torch.randn(1, 6, 5, 8)
    bias = torch.zeros(2, 30, 4)
    before = attention(tokens, bias, None)
    tokens[0, 5, 4] += 1  # in the squares of 4 x 4 that reach over the edge
    after = attention(tokens, bias, None)
    assert not torch.allclose(before[0, 0, 0], after[0, 0, 0])
