"""Each sample and each iteration has a seed of its own."""

import itertools
import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Sampler

from mmcontnet.engine.seeding import SeededSampler


class Noise(BaseDataset):
    """Eight samples, of which each is its index and three random numbers."""

    def load_data_list(self) -> list[dict[str, Any]]:
        return [dict(width=1, height=1) for _ in range(8)]

    def prepare_data(self, index: int) -> tuple[float, ...]:
        return index, random.random(), np.random.rand(), torch.rand(()).item()


def build(
    epoch: int = 0,
    skip: int = 0,
    workers: int = 0,
    sampler: str = 'DefaultSampler',
    dataset: Noise | None = None,
    **kwargs: Any,
) -> DataLoader:
    config = dict(
        dataset=dataset or Noise(),
        sampler=dict(type=SeededSampler, sampler=dict(type=sampler)),
        collate_fn=dict(type='default_collate'),
        batch_size=2,
        num_workers=workers,
        **kwargs,
    )
    loader = Runner.build_dataloader(config, seed=3)
    if skip:
        loader.sampler.skip(skip)
    if epoch:
        loader.sampler.set_epoch(epoch)
    return loader


def samples_of(loader: DataLoader, batches: int = 4) -> list[tuple[float, ...]]:
    found = [torch.stack(batch, 1).tolist() for batch in itertools.islice(loader, batches)]
    return [tuple(sample) for batch in found for sample in batch]


@pytest.mark.parametrize('persistent', [False, True])
def test_samples_do_not_depend_on_processes_or_on_what_was_loaded_before(persistent: bool) -> None:
    first, second = samples_of(build()), samples_of(build(epoch=1))
    assert sorted(index for index, *_ in first) == list(range(8))
    assert len({*first, *second}) == 16
    loader = build(workers=3, persistent_workers=persistent)
    assert samples_of(loader) == first
    loader.sampler.set_epoch(1)
    assert samples_of(loader) == second


def test_a_sample_is_not_loaded_alike_whenever_it_is_drawn() -> None:
    drawn = samples_of(build(sampler='InfiniteSampler'), batches=8)
    assert len(set(drawn)) == 16
    assert {drawn.count(sample) for sample in drawn} == {1}


@pytest.mark.parametrize('workers', [0, 2])
def test_skipping_samples_changes_nothing_about_the_rest(workers: int) -> None:
    drawn = samples_of(build(sampler='InfiniteSampler'), batches=9)
    later = build(sampler='InfiniteSampler', skip=6, workers=workers)
    assert samples_of(later, batches=6) == drawn[6:]


def test_two_processes_load_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = samples_of(build())
    parts = []
    for rank in (0, 1):
        for module in ('mmengine.dataset.sampler', 'mmcontnet.engine.seeding'):
            monkeypatch.setattr(f'{module}.get_dist_info', lambda rank=rank: (rank, 2))
        parts.append(samples_of(build()))
    assert [sample for pair in zip(*parts, strict=True) for sample in pair] == whole


def test_mmdets_batches_of_like_shapes_keep_the_seeds() -> None:
    pytest.importorskip('mmdet.datasets')
    batch_sampler = dict(type='mmdet.AspectRatioBatchSampler')
    assert samples_of(build(batch_sampler=batch_sampler)) == samples_of(build())


def test_a_data_set_is_still_pickled_and_indexed() -> None:
    loader = build()
    copy = pickle.loads(pickle.dumps(loader.sampler))
    assert (len(copy), copy.seed, list(copy)) == (8, 3, list(loader.sampler))
    assert loader.dataset[5][0] == 5
    assert hasattr(build(sampler='InfiniteSampler').sampler, 'skip')
    assert not hasattr(loader.sampler, 'skip')


@DATA_SAMPLERS.register_module()
class Frames(Sampler):
    """Draws pairs, as mmdet's samplers of videos do."""

    def __init__(self, dataset: Any, seed: int) -> None:
        pass

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(0, 1), (0, 2)])


class Videos(Noise):
    def __getitem__(self, index: tuple[int, int]) -> tuple[float, ...]:
        return torch.tensor(index)


class Batches(Noise):
    def __getitems__(self, indices: list[int]) -> list[tuple[int]]:
        return [(index * 10,) for index in indices]


def test_what_cannot_be_seeded_is_loaded_nevertheless() -> None:
    assert next(iter(build(sampler='Frames', dataset=Videos()))).tolist() == [[0, 1], [0, 2]]
    (samples,) = next(iter(build(dataset=Batches())))
    assert all(sample % 10 == 0 for sample in samples.tolist())
