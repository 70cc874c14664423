"""PVT's spatial-reduction attention with the convolution path, and its position encodings."""

import pytest
import torch
import torch.nn.functional as F

from mmcontnet.layers import PositionedPatchEmbedding, SpatialReductionACmix


@pytest.mark.parametrize('reduction', [1, 2, 4])
@torch.no_grad()
def test_the_convolution_path_takes_a_query_and_the_key_and_value_of_its_square(
    reduction: int,
) -> None:
    layer = SpatialReductionACmix(8, 2, reduction).double()
    layer.sum.rate_attention.fill_(0.25)
    layer.sum.rate_convolution.fill_(0.75)
    tokens = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    source = tokens
    if reduction > 1:
        padded = F.pad(tokens, (0, 0, 0, -3 % reduction, 0, -5 % reduction))
        source = layer.norm(layer.reduce(padded.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    q, (k, v) = layer.q(tokens), layer.kv(source).chunk(2, dim=3)

    features = torch.zeros(2, 24, 5, 3, dtype=torch.float64)
    for y in range(5):
        for x in range(3):
            square = (slice(None), y // reduction, x // reduction)
            features[:, :, y, x] = torch.cat([q[:, y, x], k[square], v[square]], dim=1)
    convolved = layer.convolution(features).permute(0, 2, 3, 1)

    heads = [x.flatten(1, 2).unflatten(2, (2, 4)) for x in (q, k, v)]
    logits = torch.einsum('bnhd,bmhd->bhnm', *heads[:2]) / 4**0.5
    attended = torch.einsum('bhnm,bmhd->bnhd', logits.softmax(dim=3), heads[2])
    attended = layer.proj(attended.reshape(tokens.shape))
    torch.testing.assert_close(layer(tokens), 0.25 * attended + 0.75 * convolved)


def test_heads_that_do_not_divide_are_named() -> None:
    with pytest.raises(ValueError, match='num_heads must divide the 8 channels, got 3'):
        SpatialReductionACmix(8, 3, 1)


def test_positions_are_learnt_at_the_native_size_and_resized_to_others() -> None:
    embedding = PositionedPatchEmbedding(3, 4, patch_size=2, side=4)
    ramp = torch.arange(4.0)
    with torch.no_grad():
        embedding.conv.weight.zero_()
        embedding.conv.bias.zero_()
        embedding.position.copy_((ramp[:, None] + 10 * ramp).expand(1, 4, 4, 4))
    torch.testing.assert_close(embedding(torch.randn(2, 3, 8, 7))[0], embedding.position[0])
    resized = embedding(torch.randn(1, 3, 15, 5))[0, 0]
    assert resized.shape == (8, 3)
    # Twice as many rows: a linear ramp in between, the outermost pixels' values at the border.
    steps = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75])
    middle = torch.tensor([1 / 6, 1.5, 3 - 1 / 6]) * 10
    torch.testing.assert_close(resized[:7], steps[:, None] + middle)
