import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcontnet.layers import CONTEXTS, CoTLayer, SplitAttention


def reference(layer: CoTLayer, x: Tensor) -> Tensor:
    """Section 3.2 as it is written, with every local attention matrix in sight."""
    b, c, h, w = x.shape
    g = layer.groups
    k1 = F.relu(layer.key(x))
    if layer.context == 'static':
        return k1
    pair = torch.stack([x, k1], 2).flatten(1, 2) if g > 1 else torch.cat([x, k1], 1)
    matrices = layer.embed(pair).reshape(b, g, c // 8 // g, 9, h, w)
    patches = F.unfold(layer.value(x), 3, padding=1).reshape(b, g, c // g, 9, h, w)
    # Channels share matrices in turns: 0, 1, ..., 0, 1, ...
    shared = matrices.repeat(1, 1, 8, 1, 1, 1)
    k2 = F.silu(layer.norm((patches * shared).sum(3).reshape(b, c, h, w)))
    if layer.context == 'dynamic':
        return k2
    if layer.context == 'linear':
        return k1 + k2
    shares = layer.fuse((k1 + k2).mean((2, 3), keepdim=True)).reshape(b, c, 2, 1, 1).softmax(2)
    return k2 * shares[:, :, 0] + k1 * shares[:, :, 1]


@pytest.mark.parametrize('context', CONTEXTS)
@pytest.mark.parametrize(('groups', 'key_groups'), [(1, 4), (2, 8)])
def test_layer_equals_the_paper_in_values_and_gradients(
    groups: int, key_groups: int, context: str
) -> None:
    layer = CoTLayer(48, groups=groups, key_groups=key_groups, context=context).double()
    x = torch.randn(2, 48, 5, 7, dtype=torch.float64, requires_grad=True)
    expected = reference(layer, x)
    actual = layer(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected)
    inputs, seed = [x, *layer.parameters()], torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, seed), torch.autograd.grad(expected, inputs, seed)
    )


@pytest.mark.parametrize('stride', [1, 2])
def test_split_attention_weighs_the_channels_of_a_convolution(stride: int) -> None:
    layer = SplitAttention(64, stride).eval()
    x = torch.randn(2, 64, 5, 7)
    features = F.silu(layer.conv(x))
    out = layer(x)
    assert out.shape[2:] == ((5, 7) if stride == 1 else (3, 4))
    shares = out / features
    # One weight for each image and channel, between 0 and 1.
    torch.testing.assert_close(shares, shares[:, :, :1, :1].expand_as(shares), rtol=1e-3, atol=1e-4)
    assert 0 < shares.min() < shares.max() < 1
