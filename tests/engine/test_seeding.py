"""A resumed training sees what an uninterrupted one sees, whatever loads its data."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmcontnet.engine import find_resume_point
from mmcontnet.engine.seeding import SeededBatches

from .runs import tiny_config, train

LOOPS = {
    'epochs': dict(),
    'epochs, batches of like shapes': {
        'train_dataloader.batch_sampler': dict(type='mmdet.AspectRatioBatchSampler')
    },
    'iterations': {'train_dataloader.sampler': dict(type='InfiniteSampler')},
    'iterations, batches of like shapes': {
        'train_dataloader.sampler': dict(type='InfiniteSampler'),
        'train_dataloader.batch_sampler': dict(type='mmdet.AspectRatioBatchSampler'),
    },
    'iterations, a sampler that ends': dict(),
}


@pytest.mark.parametrize('loop', LOOPS)
def test_a_resumed_training_sees_what_an_uninterrupted_one_sees(loop: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = dict(LOOPS[loop], by_epoch='epochs' in loop)
    whole = train(tiny_config(tmp_path, **changes))
    # Each number once: neither samples nor iterations share a seed.
    drawn = [sample[1] for samples, _ in whole for sample in samples]
    assert len({*drawn, *(number for _, number in whole)}) == 3 * 8 + 12
    workers = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
    cfg = tiny_config(tmp_path, **changes, **workers)
    checkpoint = 'epoch_1.pth' if 'epochs' in loop else 'iter_4.pth'
    resume = find_resume_point(cfg, str(tmp_path / checkpoint))
    assert train(cfg, resume) == whole[4:]


def test_a_training_does_not_depend_on_its_workers(tmp_path: Path) -> None:
    loaders = [dict(num_workers=0), dict(num_workers=3)]
    first, second = (train(tiny_config(tmp_path, train_dataloader=loader)) for loader in loaders)
    assert first == second


def test_another_seed_gives_another_training(tmp_path: Path) -> None:
    first, second = (train(tiny_config(tmp_path, randomness=dict(seed=i))) for i in (0, 1))
    assert not {number for _, number in first} & {number for _, number in second}


class Batches(Dataset):
    """Loads batches itself."""

    def __len__(self) -> int:
        return 4

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [torch.rand(()) + index for index in indices]


def load(**options: Any) -> list[list[float]]:
    loader = DataLoader(Batches(), batch_size=2, **options)
    object.__setattr__(loader, 'batch_sampler', SeededBatches(loader.batch_sampler, 0))
    return [batch.tolist() for batch in loader]


def test_data_sets_that_load_batches_are_seeded_too() -> None:
    assert load() == load(num_workers=2)


def test_to_send_a_batch_to_a_worker_seeds_nothing() -> None:
    (batch,) = SeededBatches([[1, 2]], 0)
    state = torch.get_rng_state()
    copy = pickle.loads(pickle.dumps(batch))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(copy) == [1, 2]
    assert not torch.equal(torch.get_rng_state(), state)
