"""What is random in a run depends on its seed and how far it is, not on its interruptions."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info, get_rank, sync_random_seed
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset, Sampler


def make_reproducible(runner: Runner) -> None:
    """Make a training that is resumed take the steps of one that was not interrupted.

    mmengine seeds the generators of the main process, and of each worker that loads data, when it
    starts them. Here each sample and each iteration starts from a seed of its own. A checkpoint
    within an epoch is no such place: mmengine starts its epoch anew.

    Args:
        runner: Before it has trained.
    """
    runner.register_hook(_SeedHook(), 'HIGHEST')
    loader = runner._train_dataloader  # the config: mmengine builds it when it trains
    if loader is not None and not isinstance(loader, DataLoader):
        sampler = dict(type=SeededSampler, sampler=loader['sampler'])
        runner._train_dataloader = {**loader, 'sampler': sampler}


def _seed(*numbers: int) -> None:
    """Seed all generators with what these numbers, in this order, are mixed to."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class _SeedHook(Hook):
    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        # Four numbers, so that no sample, which has three, gets the same.
        _seed(runner.seed, runner.iter, get_rank(), 0)


class _Draw(int):
    """The index of a sample, and the numbers that seed what is random in loading it."""

    seeds: tuple[int, ...] = ()


class SeededSampler(Sampler):
    """Another sampler, whose samples are loaded with a seed for each draw.

    Indices that are no integers, and data sets that load batches themselves, are left alone.

    Args:
        dataset: The data set.
        sampler: Config of the other sampler.
        seed: Its seed, and the samples'. None takes a random one, of all processes the same.
    """

    def __init__(self, dataset: Dataset, sampler: dict[str, Any], seed: int | None = None) -> None:
        self.dataset = dataset
        self.seed = sync_random_seed() if seed is None else seed
        self.sampler = DATA_SAMPLERS.build(
            sampler, default_args=dict(dataset=dataset, seed=self.seed)
        )
        self._start = 0
        if hasattr(self.sampler, 'skip'):
            self.skip = self._skip
        # What DataLoader calls, in its workers, with the indices of a batch.
        if not hasattr(type(dataset), '__getitems__'):
            dataset.__getitems__ = partial(_load, dataset)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        if name == 'sampler':  # unpickling asks for it before it is there
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        rank, processes = get_dist_info()
        epoch = getattr(self.sampler, 'epoch', 0)
        for position, index in enumerate(self.sampler, self._start):
            if isinstance(index, Integral):
                index = _Draw(index)
                index.seeds = (self.seed, epoch, position * processes + rank)
            yield index

    def _skip(self, samples: int) -> None:
        """Start at the sample of that number, as the other sampler's method of the name does."""
        self.sampler.skip(samples)
        self._start = samples


def _load(dataset: Dataset, indices: Sequence[Any]) -> list[Any]:
    samples = []
    for index in indices:
        # Samplers of videos draw pairs, and a batch sampler may make indices of its own.
        if isinstance(index, _Draw):
            _seed(*index.seeds)
            index = int(index)
        samples.append(dataset[index])
    return samples
