import pytest
import torch

from mmcontnet.layers import (
    AxialPositionEncoding,
    RelativePositionBias,
    SequencePositionEncoding,
)
from mmcontnet.ops import window_partition


def test_2d_encoding_tells_the_row_first_and_the_column_second() -> None:
    encoding = AxialPositionEncoding(6, 4)
    grid = encoding()[0]
    for i in range(4):
        for j in range(4):
            assert torch.equal(grid[:, i, j], torch.cat([encoding.row[i], encoding.column[j]]))
    with pytest.raises(ValueError, match='even embed_dims'):
        AxialPositionEncoding(7, 4)


def test_1d_encoding_counts_pixels_row_by_row() -> None:
    encoding = SequencePositionEncoding(6, 4)
    assert torch.equal(encoding()[0, :, 2, 3], encoding.sequence[2 * 4 + 3])


@pytest.mark.parametrize('order', [4, 2])
def test_relative_bias_depends_on_the_offset_alone(order: int) -> None:
    bias = RelativePositionBias(2, 4, order)
    index = window_partition(torch.arange(16.0).reshape(1, 1, 4, 4), 4, order).flatten().long()
    seen: dict[tuple[int, int], list[torch.Tensor]] = {}
    values = bias()
    for i, query in enumerate(index.tolist()):
        for j, key in enumerate(index.tolist()):
            offset = (query // 4 - key // 4, query % 4 - key % 4)
            seen.setdefault(offset, []).append(values[:, i, j])
    assert len(seen) == 7 * 7
    assert all(torch.equal(value, group[0]) for group in seen.values() for value in group)
    # Every offset has an entry of its own.
    assert len({tuple(group[0].tolist()) for group in seen.values()}) == 7 * 7
