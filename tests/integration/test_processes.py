"""Several processes learn what one does, and one does not grow."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from ..families import FAMILIES
from . import processes
from .cli import START_METHOD


def find(task: Callable, number: int, device: str, folder: Path) -> dict:
    """Return what the first of ``number`` processes finds."""
    arguments = (number, task, device, folder)
    multiprocessing.start_processes(processes.work, arguments, number, start_method=START_METHOD)
    return torch.load(folder / 'found.pt')


# Gloo lets two processes share a GPU, and there SyncBN is PyTorch's own.
every_device = pytest.mark.parametrize(
    'device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
)


@every_device
def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(
    device: str, tmp_path: Path
) -> None:
    found = find(processes.compare_gradients, 2, device, tmp_path)
    assert len(found) == len(FAMILIES) * len(processes.SETTINGS)
    assert {case: far for case, far in found.items() if max(far.values()) > 1e-8} == {}


@pytest.mark.slow
@every_device
def test_mmengines_fsdp_strategy_trains_what_one_process_trains(
    device: str, tmp_path: Path
) -> None:
    found = find(processes.compare_sharded, 2, device, tmp_path)
    assert len(found) == len(FAMILIES)
    assert {case: far for case, far in found.items() if far > 1e-8} == {}


@pytest.mark.slow
def test_no_size_of_images_leaves_anything_in_memory(tmp_path: Path) -> None:
    found = find(processes.train_on_many_sizes, 1, 'cpu', tmp_path)
    assert len(found) == len(FAMILIES) - 1
    for family, (counts, memory) in found.items():
        half = len(counts) // 2
        assert max(counts[half:]) <= max(counts[:half]), family
        # MiB. The allocator's pools grow for some dozen iterations, most in the first family.
        assert memory[-1] - memory[half] < 8, family
