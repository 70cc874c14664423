"""Reflected borders, as NumPy makes them."""

import numpy as np
import pytest
import torch

from mmcontnet.ops import reflect_pad


@pytest.mark.parametrize('margin', [0, 1, 3])
@pytest.mark.parametrize('size', [(1, 1), (1, 5), (2, 3), (4, 3), (4, 7)])
def test_small_maps_are_reflected_as_often_as_it_takes(size: tuple[int, int], margin: int) -> None:
    x = torch.randn(2, 3, *size)
    expected = np.pad(x.numpy(), [(0, 0)] * 2 + [(margin, margin)] * 2, mode='reflect')
    torch.testing.assert_close(reflect_pad(x, margin), torch.from_numpy(expected))


def test_gradients_of_all_reflections_add_up() -> None:
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    reflect_pad(x, 3).sum().backward()
    # In 8 places along each side the two pixels take turns.
    assert (x.grad == 16).all()
