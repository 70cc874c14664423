import pytest
import torch
from torch import Tensor

from mmcontnet.ops import pad_to_multiple, window_partition, window_reverse


def reference_partition(x: Tensor, window: int, sub_window: int) -> Tensor:
    """Cut windows one pixel at a time."""
    b, _, h, w = x.shape
    inner = window // sub_window
    windows = []
    for image in range(b):
        for top in range(0, h, window):
            for left in range(0, w, window):
                windows.append(
                    torch.stack(
                        [
                            x[image, :, top + i * sub_window + r, left + j * sub_window + s]
                            for i in range(inner)
                            for j in range(inner)
                            for r in range(sub_window)
                            for s in range(sub_window)
                        ]
                    )
                )
    return torch.stack(windows).reshape(b, h * w, -1)


@pytest.mark.parametrize(('window', 'sub_window'), [(4, 4), (4, 2), (6, 3), (6, 1)])
def test_partition_equals_the_pixelwise_reference_and_reverse_undoes_it(
    window: int, sub_window: int
) -> None:
    x = torch.randn(2, 3, 2 * window, 3 * window)
    tokens = window_partition(x, window, sub_window)
    torch.testing.assert_close(tokens, reference_partition(x, window, sub_window), rtol=0, atol=0)
    assert torch.equal(window_reverse(tokens, x.shape[2:], window, sub_window), x)


def test_padding_is_zero_at_the_right_and_the_bottom_and_absent_where_nothing_is_missing() -> None:
    x = torch.randn(2, 3, 5, 8)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (2, 3, 8, 8)
    assert torch.equal(padded[:, :, :5], x)
    assert not padded[:, :, 5:].any()
    assert pad_to_multiple(padded, 4) is padded
