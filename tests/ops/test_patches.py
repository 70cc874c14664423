import pytest
import torch
from torch import Tensor

from mmcontnet.ops import merge_patches, pad_to_multiple, partition_patches


def reference_partition(x: Tensor, patch_size: int, order: int) -> Tensor:
    """Cut patches one pixel at a time."""
    b, _, h, w = x.shape
    inner = patch_size // order
    patches = []
    for image in range(b):
        for top in range(0, h, patch_size):
            for left in range(0, w, patch_size):
                patches.append(
                    torch.stack(
                        [
                            x[image, :, top + i * order + r, left + j * order + s]
                            for i in range(inner)
                            for j in range(inner)
                            for r in range(order)
                            for s in range(order)
                        ]
                    )
                )
    return torch.stack(patches).reshape(b, h * w, -1)


@pytest.mark.parametrize(('patch_size', 'order'), [(4, 4), (4, 2), (6, 3), (6, 1)])
def test_partition_equals_the_pixelwise_reference_and_merge_undoes_it(
    patch_size: int, order: int
) -> None:
    x = torch.randn(2, 3, 2 * patch_size, 3 * patch_size)
    tokens = partition_patches(x, patch_size, order)
    torch.testing.assert_close(tokens, reference_partition(x, patch_size, order), rtol=0, atol=0)
    assert torch.equal(merge_patches(tokens, x.shape[2:], patch_size, order), x)


def test_large_patches_in_small_order_hold_the_small_patches_one_after_the_other() -> None:
    x = torch.randn(1, 2, 14, 14)
    small = partition_patches(x, 7)
    large = partition_patches(x, 14, 7)
    assert torch.equal(large, small.reshape(1, 196, 2))


def test_padding_is_zero_at_the_right_and_the_bottom_and_absent_where_nothing_is_missing() -> None:
    x = torch.randn(2, 3, 5, 8)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (2, 3, 8, 8)
    assert torch.equal(padded[:, :, :5], x)
    assert not padded[:, :, 5:].any()
    assert pad_to_multiple(padded, 4) is padded
