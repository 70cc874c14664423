import pytest
import torch
import torch.nn.functional as F

from mmcontnet.layers import POS_ENCODINGS, PatchEncoder
from mmcontnet.ops import pad_to_multiple, window_partition

SIZE = (3, 3)  # where it does not matter: only image-wise encodings look at the size of the map


def test_indivisible_heads_are_refused() -> None:
    with pytest.raises(ValueError, match='num_heads'):
        PatchEncoder(8, 3, 16, 7)


def reference(encoder: PatchEncoder, tokens: torch.Tensor) -> torch.Tensor:
    """Equations 4-8 of the paper for one patch an image, with the options of table 8."""

    def attend(t: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.unflatten(-1, (2, 4)).transpose(1, 2) for x in encoder.qkv(t).chunk(3, dim=-1))
        logits = q @ k.mT / 2
        if encoder.position_bias is not None:
            logits = logits + encoder.position_bias()
        mixed = torch.softmax(logits, dim=-1) @ v
        return encoder.proj(mixed.transpose(1, 2).flatten(2))

    def feed_forward(t: torch.Tensor) -> torch.Tensor:
        return encoder.fc2(F.gelu(encoder.fc1(t)))

    t = tokens
    if encoder.position is not None:
        t = t + encoder.position().flatten(2).mT
    if encoder.pre_norm:
        t = t + attend(encoder.norm1(t))
        return t + feed_forward(encoder.norm2(t))
    t = encoder.norm1(t + attend(t))
    return encoder.norm2(t + feed_forward(t))


@pytest.mark.parametrize('pre_norm', [False, True])
@pytest.mark.parametrize('qkv_bias', [False, True])
@pytest.mark.parametrize('pos_encoding', POS_ENCODINGS)
def test_encoder_equals_the_papers_equations(
    pos_encoding: str, qkv_bias: bool, pre_norm: bool
) -> None:
    encoder = PatchEncoder(
        8, 2, 16, 3, pos_encoding=pos_encoding, qkv_bias=qkv_bias, pre_norm=pre_norm
    ).double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    assert (encoder.qkv.bias is not None) is qkv_bias
    tokens = torch.randn(5, 9, 8, dtype=torch.float64)  # five images of one patch
    torch.testing.assert_close(encoder(tokens, SIZE), reference(encoder, tokens))


@pytest.mark.parametrize('pos_encoding', ['1d', '2d'])
@pytest.mark.parametrize('size', [(8, 8), (16, 12), (5, 9)])
def test_an_image_wise_encoding_is_resized_to_the_map(
    pos_encoding: str, size: tuple[int, int]
) -> None:
    encoder = PatchEncoder(
        8, 2, 16, 2, tile=4, order=2, pos_encoding=pos_encoding, map_size=8, pre_norm=True
    )
    for layer in (encoder.proj, encoder.fc2):  # so that the encoding alone is added to the tokens
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(2, 8, *size)
    grid = encoder.position()
    assert grid.shape == (1, 8, 8, 8)
    if size != (8, 8):
        grid = F.interpolate(grid, size, mode='bicubic')
    tokens = window_partition(pad_to_multiple(x, 4), 4, 2)
    expected = window_partition(pad_to_multiple(x + grid, 4), 4, 2)
    torch.testing.assert_close(encoder(tokens, size), expected)


@pytest.mark.parametrize('pos_encoding', POS_ENCODINGS)
def test_token_order_changes_nothing_but_the_order(pos_encoding: str) -> None:
    plain = PatchEncoder(8, 2, 16, 4, pos_encoding=pos_encoding)
    ordered = PatchEncoder(8, 2, 16, 4, order=2, pos_encoding=pos_encoding)
    ordered.load_state_dict(plain.state_dict())
    x = torch.randn(1, 8, 8, 4)
    # Where each pixel went: carry its index through the same partition.
    index = torch.arange(32.0).reshape(1, 1, 8, 4)
    here = window_partition(index, 4, 2).flatten().argsort()
    there = window_partition(index, 4).flatten().argsort()
    out_ordered = ordered(window_partition(x, 4, 2), SIZE).flatten(0, 1)[here]
    out_plain = plain(window_partition(x, 4), SIZE).flatten(0, 1)[there]
    torch.testing.assert_close(out_ordered, out_plain)


def test_drop_path_drops_a_branch_of_a_whole_image() -> None:
    encoder = PatchEncoder(8, 2, 16, 3, drop_path_rate=0.5).train()
    torch.nn.init.zeros_(encoder.fc2.weight)
    torch.nn.init.zeros_(encoder.fc2.bias)
    tokens = torch.randn(64, 4 * 9, 8)
    # Where the attention branch is dropped, what is left is the norms of tokens and encoding.
    position = encoder.position().flatten(2).mT.repeat(1, 4, 1)
    kept = encoder.norm2(encoder.norm1(tokens + position))
    dropped = (encoder(tokens, (6, 6)) - kept).abs().amax(dim=2) < 1e-6
    assert (dropped.all(dim=1) | ~dropped.any(dim=1)).all()
    assert 0 < dropped.all(dim=1).sum() < 64
