import pytest
import torch
import torch.nn.functional as F

from mmcontnet.layers import AxialPositionEncoding, PatchEncoder
from mmcontnet.ops import pad_to_multiple, partition_patches


def test_position_encoding_tells_the_row_first_and_the_column_second() -> None:
    encoding = AxialPositionEncoding(6, 4)
    for order in (4, 2):
        grid = torch.zeros(1, 6, 4, 4)
        grid[0, :3] = encoding.row.T[:, :, None]
        grid[0, 3:] = encoding.column.T[:, None, :]
        assert torch.equal(encoding(order), partition_patches(grid, 4, order))


def test_odd_width_and_indivisible_heads_are_refused() -> None:
    with pytest.raises(ValueError, match='even embed_dims'):
        AxialPositionEncoding(7, 4)
    with pytest.raises(ValueError, match='num_heads'):
        PatchEncoder(8, 3, 16, 7)


def test_encoder_equals_the_papers_equations() -> None:
    encoder = PatchEncoder(8, 2, 16, 3).double()
    tokens = torch.randn(5, 9, 8, dtype=torch.float64)  # five images of one patch
    t = tokens + encoder.position(3)
    q, k, v = (x.unflatten(-1, (2, 4)).transpose(1, 2) for x in encoder.qkv(t).chunk(3, dim=-1))
    mixed = torch.softmax(q @ k.mT / 2, dim=-1) @ v
    t = encoder.norm1(t + encoder.proj(mixed.transpose(1, 2).flatten(2)))
    t = encoder.norm2(t + encoder.fc2(F.gelu(encoder.fc1(t))))
    torch.testing.assert_close(encoder(tokens), t)


def test_token_order_changes_nothing_but_the_order() -> None:
    plain = PatchEncoder(8, 2, 16, 4)
    ordered = PatchEncoder(8, 2, 16, 4, order=2)
    ordered.load_state_dict(plain.state_dict())
    x = torch.randn(1, 8, 8, 4)
    # Where each pixel went: carry its index through the same partition.
    index = torch.arange(32.0).reshape(1, 1, 8, 4)
    here = partition_patches(index, 4, 2).flatten().argsort()
    there = partition_patches(index, 4).flatten().argsort()
    out_ordered = ordered(partition_patches(x, 4, 2)).flatten(0, 1)[here]
    out_plain = plain(partition_patches(x, 4)).flatten(0, 1)[there]
    torch.testing.assert_close(out_ordered, out_plain)


def test_padding_changes_nothing_but_the_windows_that_hold_it() -> None:
    encoder = PatchEncoder(8, 2, 16, 7).eval()
    x = torch.randn(1, 8, 17, 14)
    whole = encoder(partition_patches(x[:, :, :14], 7)).unflatten(1, (2, 2, 49))
    padded = encoder(partition_patches(pad_to_multiple(x, 7), 7)).unflatten(1, (3, 2, 49))
    torch.testing.assert_close(padded[:, :2], whole)
    assert not torch.allclose(padded[:, 2, 0], whole[:, 1, 0])


def test_drop_path_drops_a_branch_of_a_whole_image() -> None:
    encoder = PatchEncoder(8, 2, 16, 3, drop_path_rate=0.5).train()
    torch.nn.init.zeros_(encoder.fc2.weight)
    torch.nn.init.zeros_(encoder.fc2.bias)
    tokens = torch.randn(64, 4 * 9, 8)
    # Where the attention branch is dropped, what is left is the norms of tokens and encoding.
    position = encoder.position(3).repeat(1, 4, 1)
    kept = encoder.norm2(encoder.norm1(tokens + position))
    dropped = (encoder(tokens) - kept).abs().amax(dim=2) < 1e-6
    assert (dropped.all(dim=1) | ~dropped.any(dim=1)).all()
    assert 0 < dropped.all(dim=1).sum() < 64
