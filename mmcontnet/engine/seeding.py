"""Seeds for each batch and each iteration, so that a resumed run repeats an uninterrupted one.

mmengine seeds the random number generators once: those of the training process when it starts, and
those of each worker process that loads data. A resumed run starts its processes anew.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner


class SeedHook(Hook):
    """Seeds each iteration, and the loading of its batch, by the iteration's number.

    Only a training that is resumed within an epoch of a loop over epochs differs: mmengine starts
    that epoch anew.
    """

    priority = 'HIGHEST'

    def before_train(self, runner: Runner) -> None:
        """Number the batches that will be loaded, and name the run in its checkpoints."""
        if 'run' not in runner.message_hub.runtime_info:  # as a resumed one has it
            runner.message_hub.update_info('run', secrets.token_hex(8))
        loader = runner.train_dataloader
        if getattr(loader, 'batch_sampler', None) is not None:
            batches = SeededBatches(loader.batch_sampler, runner.seed)
            # DataLoader refuses a plain assignment, since its arguments were checked together. It
            # has not started yet, and gets the same batches. A batch sampler in the config would
            # take the place of the sampler, which mmengine and its hooks look for in the loader.
            object.__setattr__(loader, 'batch_sampler', batches)

    def before_train_epoch(self, runner: Runner) -> None:
        """Start at the number of the batch that comes next."""
        loop, loader = runner.train_loop, runner.train_dataloader
        if isinstance(getattr(loader, 'batch_sampler', None), SeededBatches):
            # A resumed loop over iterations has the sampler skip the batches before, or, if that
            # cannot, loads and drops them.
            loads_all = isinstance(loop, IterBasedTrainLoop) and not hasattr(loader.sampler, 'skip')
            loader.batch_sampler.number = 0 if loads_all else runner.iter

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Seed dropout, drop path and what else the model draws."""
        _seed(runner.seed, runner.iter, get_rank(), 0)


class SeededBatches:
    """A batch sampler whose batches seed the process that loads them.

    Args:
        batch_sampler: Yields the indices of each batch.
        seed: The run's.
    """

    def __init__(self, batch_sampler: Any, seed: int) -> None:
        self.number = 0
        self._batch_sampler, self._seed = batch_sampler, seed

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):  # copy and pickle ask before anything is set
            raise AttributeError(name)
        return getattr(self._batch_sampler, name)

    def __len__(self) -> int:
        return len(self._batch_sampler)

    def __iter__(self) -> Iterator[list[Any]]:
        for indices in self._batch_sampler:
            yield _SeededBatch(indices, (self._seed, self.number, get_rank(), 1))
            self.number += 1


class _SeededBatch(list):
    """Indices of samples, which DataLoader iterates over where it loads them."""

    def __init__(self, indices: Iterable[Any], seed: tuple[int, ...]) -> None:
        super().__init__(indices)
        self._seed = seed

    def __iter__(self) -> Iterator[Any]:
        _seed(*self._seed)
        return super().__iter__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _SeededBatch, (self[:], self._seed)  # list's own would iterate, and seed


def _seed(*numbers: int) -> None:
    """Seed all generators with what these numbers, in this order, are mixed to."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
