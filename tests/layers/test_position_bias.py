import math
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmcontnet.errors import WeightMismatchError
from mmcontnet.layers import PositionBias


def whole(bias: PositionBias, size: tuple[int, int]) -> Tensor:
    rows, columns = bias(size)
    return rows if columns is None else rows @ columns.mT


def places(size: tuple[int, int], reduction: int = 1) -> Tensor:
    """Centres of the pixels, or of squares of ``reduction`` pixels, as fractions of the map."""
    y, x = ((torch.arange(math.ceil(n / reduction)) + 0.5) * reduction / n for n in size)
    return torch.stack(torch.meshgrid(y, x, indexing='ij'), dim=-1).flatten(0, 1)


def smooth(size: tuple[int, int], reduction: int) -> Tensor:
    """exp(-2 d^2) of the distance d between query and key, in sides of the image."""
    offset = places(size)[:, None] - places(size, reduction)
    return torch.exp(-2 * offset.square().sum(-1))


@pytest.mark.parametrize('resize', ['spatial', 'matrix'])
@pytest.mark.parametrize('grad', [True, False])
def test_at_the_native_size_the_bias_is_used_as_it_is(resize: str, grad: bool) -> None:
    bias = PositionBias(2, 8, 4, resize)
    with torch.set_grad_enabled(grad):
        assert torch.equal(whole(bias, (8, 8)), bias.table)


@pytest.mark.parametrize('resize', ['spatial', 'matrix'])
@pytest.mark.parametrize('side', [40, 48, 56, 64, 72])
def test_so_are_its_factors(side: int, resize: str) -> None:
    """CUDA gets these, whose native sizes are those of Ti to L; bicubic weights are inexact."""
    bias = PositionBias(1, side, 8, resize)
    rows, columns = bias._factors(bias.table, (side, side))
    assert torch.equal(rows @ columns.mT, bias.table)


@pytest.mark.parametrize('stage', range(4))
@pytest.mark.parametrize('image', [(437, 615), (96, 160)])
def test_a_smooth_function_of_two_places_is_still_sampled(
    stage: int, image: tuple[int, int]
) -> None:
    side, reduction = 56 >> stage, 8 >> stage
    size = (-(-image[0] // (4 << stage)), -(-image[1] // (4 << stage)))
    expected = smooth(size, reduction)
    errors = {}
    for resize in ('spatial', 'matrix'):
        bias = PositionBias(1, side, reduction, resize)
        with torch.no_grad():
            bias.table[0] = smooth((side, side), reduction)
            rows, columns = bias._factors(bias.table, size)
            # Not the whole bias, of up to 64 million entries: every seventh query.
            error = rows[0, ::7] @ columns.mT - expected[::7]
        errors[resize] = float(error.norm() / expected[::7].norm())
    assert errors['spatial'] < 0.035
    assert errors['matrix'] > 0.3  # the formula read literally mixes unrelated places


@pytest.mark.parametrize('resize', ['spatial', 'matrix'])
@pytest.mark.parametrize('size', [(8, 8), (16, 16), (7, 13), (1, 1), (2, 9)])
def test_a_constant_bias_stays_constant(resize: str, size: tuple[int, int]) -> None:
    bias = PositionBias(2, 8, 4, resize)
    torch.nn.init.constant_(bias.table, 0.7)
    resized = whole(bias, size)
    keys = math.ceil(size[0] / 4) * math.ceil(size[1] / 4)
    assert resized.shape == (2, size[0] * size[1], keys)
    torch.testing.assert_close(resized, torch.full_like(resized, 0.7))


def test_matrix_resizing_is_the_formula_read_literally() -> None:
    bias = PositionBias(3, 8, 4, 'matrix')
    expected = F.interpolate(bias.table[None], (12 * 20, 3 * 5), mode='bicubic')[0]
    torch.testing.assert_close(whole(bias, (12, 20)), expected)


def test_spatial_resizing_is_bicubic_over_both_grids() -> None:
    bias = PositionBias(3, 8, 4)
    grids = bias.table.reshape(3, 8, 8, 2, 2)
    queries = F.interpolate(grids.flatten(3).permute(0, 3, 1, 2), (12, 20), mode='bicubic')
    keys = queries.permute(0, 2, 3, 1).reshape(-1, 1, 2, 2)
    expected = F.interpolate(keys, (3, 5), mode='bicubic').reshape(3, 12 * 20, 3 * 5)
    torch.testing.assert_close(whole(bias, (12, 20)), expected, rtol=1e-4, atol=1e-5)


def change_by_step(bias: PositionBias) -> None:
    optimizer = torch.optim.SGD(bias.parameters(), lr=1.0)
    whole(bias, (5, 6)).square().sum().backward()
    optimizer.step()


CHANGES = {
    'step': change_by_step,
    'load': lambda bias: bias.load_state_dict({'table': torch.randn(2, 64, 4)}),
    'assign': lambda bias: bias.load_state_dict({'table': torch.ones(2, 64, 4)}, assign=True),
    # Nothing that torch counts changes: averaged weights are swapped in like this.
    'data': lambda bias: bias.table.data.copy_(torch.randn(2, 64, 4)),
    'to': lambda bias: bias.to(torch.float64),
    'half': lambda bias: bias.half(),
    'new parameter': lambda bias: setattr(bias, 'table', torch.nn.Parameter(torch.ones(2, 64, 4))),
}


@pytest.mark.parametrize('change', CHANGES)
def test_inference_never_sees_a_stale_bias(change: str) -> None:
    bias = PositionBias(2, 8, 4)
    with torch.no_grad():
        before = whole(bias, (5, 6))
        assert whole(bias, (5, 6)) is before  # or there would be nothing to go stale
    CHANGES[change](bias)
    with torch.no_grad():
        fresh = PositionBias(2, 8, 4).to(bias.table.dtype)
        fresh.load_state_dict(bias.state_dict())
        after, expected = whole(bias, (5, 6)), whole(fresh, (5, 6))
        assert torch.equal(after, expected)
        assert after.dtype == bias.table.dtype
        # Nor one for another map of as many pixels.
        assert torch.equal(whole(bias, (6, 5)), whole(fresh, (6, 5)))


@torch.no_grad()
def test_a_table_that_changes_while_its_bias_is_computed_leaves_nothing_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bias = PositionBias(2, 8, 4)
    compute = bias._factors

    def change_and_compute(table: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        factors = compute(table, size)
        bias.table.data.add_(1)  # as another thread may, at any time
        return factors

    with monkeypatch.context() as patch:
        patch.setattr(bias, '_factors', change_and_compute)
        bias((5, 6))
    rows, columns = bias._factors(bias.table, (5, 6))
    assert torch.equal(whole(bias, (5, 6)), rows @ columns.mT)


def test_threads_with_several_sizes_share_a_table_that_another_changes() -> None:
    bias = PositionBias(2, 8, 4)
    sizes = [(5, 6), (6, 5), (9, 3), (16, 16)]
    done = threading.Event()

    @torch.no_grad()
    def infer(size: tuple[int, int]) -> None:
        while not done.is_set():
            made = whole(bias, size)
            assert made.shape[1] == math.prod(size)
            # A constant table has a constant bias; while it is written, it has two values.
            assert 0 - 1e-3 <= made.min() and made.max() <= 50

    bias.table.data.zero_()
    with ThreadPoolExecutor(8) as pool:
        threads = [pool.submit(infer, size) for size in 2 * sizes]
        for value in range(50):
            bias.table.data.fill_(value)
        done.set()
        for thread in threads:
            thread.result()
    with torch.no_grad():
        assert all(whole(bias, size).sub(49).abs().max() < 1e-3 for size in sizes)


@torch.no_grad()
def test_the_bias_of_one_size_is_kept_and_no_more() -> None:
    bias = PositionBias(2, 8, 4)
    made = [weakref.ref(whole(bias, (side, side))) for side in range(9, 19)]
    assert [ref() is None for ref in made] == [True] * 9 + [False]


@torch.no_grad()
def test_the_meta_device_computes_what_a_cpu_does() -> None:
    bias = PositionBias(2, 8, 4)
    shapes = []
    for device in ('cpu', 'meta'):
        with FlopCounterMode(display=False) as counter:
            made, factor = bias.to(device)((5, 6))
        shapes.append((made.shape, factor, counter.get_total_flops()))
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize('first', [True, False])
def test_autocast_leaves_and_finds_the_bias_of_full_precision(first: bool) -> None:
    bias = PositionBias(2, 8, 4)
    expected = deepcopy(bias)
    with torch.no_grad():
        for enabled in (first, not first):
            with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
                actual = whole(bias, (5, 6))
            assert torch.equal(actual, whole(expected, (5, 6)))


def test_copies_and_pickles_are_without_the_cached_bias() -> None:
    bias = PositionBias(2, 8, 4)
    empty = len(pickle.dumps(bias))
    with torch.no_grad():
        cached = whole(bias, (50, 60))
    assert len(pickle.dumps(bias)) == empty
    copied = deepcopy(bias)
    assert copied._cached is None
    with torch.no_grad():
        assert torch.equal(whole(copied, (50, 60)), cached)
        assert whole(bias, (50, 60)) is cached


@pytest.mark.parametrize(('native', 'target'), [(8, 16), (16, 8)])
def test_a_table_of_another_size_is_resized_when_loaded_and_logged(
    native: int, target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = []
    monkeypatch.setattr(
        'mmcontnet.layers.position_bias.print_log', lambda message, logger: logged.append(message)
    )
    source, loaded = PositionBias(2, native, 4), PositionBias(2, target, 4)
    state = source.state_dict()
    (name,) = adapted = loaded.adapt_weights({f'a.{key}': state[key] for key in state}, 'a.')
    loaded.load_state_dict(state)
    assert name == 'a.table' and torch.equal(adapted[name], loaded.table)
    torch.testing.assert_close(loaded.table, whole(source, (target, target)))
    assert state['table'].shape == source.table.shape
    message = f'table resized from a map of {native} x {native} to {target} x {target}'
    assert logged == [f'a.{message}', message]
    assert loaded.adapt_weights(loaded.state_dict(), '') == loaded.adapt_weights({}, '') == {}


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('shape', [(2, 63, 4), (2, 144, 4), (3, 144, 9), (2, 64), (2, 36, 2)])
def test_a_table_that_no_map_has_is_refused(shape: tuple[int, ...], strict: bool) -> None:
    bias = PositionBias(2, 8, 4)
    message = r'table of shape .* belongs to no square map with 2 heads and 4 x 4 pixels'
    with pytest.raises(WeightMismatchError, match=message):
        bias.load_state_dict({'table': torch.zeros(shape)}, strict=strict)
