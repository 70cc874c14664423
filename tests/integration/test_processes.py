"""Several processes learn, and test, what one does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from mmcontnet.builders import build_model
from mmcontnet.engine import load_config

from ..families import FAMILIES
from ..inprocess import run_tool
from . import processes
from .cli import START_METHOD, free_port, run
from .configs import write_classifier
from .data import make_class_folders


def find(task: Callable, number: int, device: str, folder: Path) -> dict:
    """Return what the first of ``number`` processes finds."""
    arguments = (number, task, device, folder)
    multiprocessing.start_processes(processes.work, arguments, number, start_method=START_METHOD)
    return torch.load(folder / 'found.pt')


# Gloo lets two processes share a GPU, and there SyncBN is PyTorch's own.
on_gpu = pytest.param(2, 'cuda', marks=pytest.mark.gpu)


@pytest.mark.parametrize(('number', 'device'), [(2, 'cpu'), (4, 'cpu'), on_gpu])
def test_several_processes_have_the_gradients_of_one_with_the_whole_batch(
    number: int, device: str, tmp_path: Path
) -> None:
    found = find(processes.compare_gradients, number, device, tmp_path)
    # A process that saw fewer images is one of several equals.
    unequal = found.pop('unequal')
    assert unequal['mean_of_means'] < 1e-9
    assert unequal['whole_batch'] > 1e-3
    assert unequal['weighted'] < 1e-9
    assert len(found) == len(FAMILIES) * len(processes.SETTINGS)
    assert {case: far for case, far in found.items() if max(far.values(), default=1) > 1e-8} == {}


@pytest.mark.parametrize(('number', 'device'), [(2, 'cpu'), on_gpu])
def test_mmengines_fsdp_strategy_trains_what_one_process_trains(
    number: int, device: str, tmp_path: Path
) -> None:
    found = find(processes.compare_sharded, number, device, tmp_path)
    assert len(found) == len(FAMILIES)
    assert {case: far for case, far in found.items() if far > 1e-8} == {}


@pytest.mark.slow
def test_no_size_of_images_leaves_anything_in_memory(tmp_path: Path) -> None:
    found = find(processes.train_for_long, 1, 'cpu', tmp_path)
    assert len(found) == len(FAMILIES)
    for family, (counts, memory) in found.items():
        half = len(counts) // 2
        assert max(counts[half:]) <= max(counts[:half]), family
        # MiB. The allocator's pools grow for some hundred iterations, most in the first family.
        assert memory[-1] - memory[half] < 16, family


def test_two_processes_test_every_image_once_where_one_has_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_class_folders(tmp_path / 'data/imagenet', images=5)
    (tmp_path / 'data/imagenet/val/n01443537/4.JPEG').unlink()  # nine are left
    config = write_classifier(tmp_path)
    torch.manual_seed(0)
    torch.save(build_model(load_config(str(config))).state_dict(), tmp_path / 'weights.pth')
    monkeypatch.chdir(tmp_path)
    port = {'PORT': free_port()}
    arguments = (config, 'weights.pth')
    run('dist_test.sh', *arguments, 2, '--work-dir', 'two', cwd=tmp_path, env=port)
    assert run_tool(monkeypatch, 'test.py', *arguments, '--work-dir', 'one') is None
    one, two = (
        json.loads(next((tmp_path / name).glob('*/*.json')).read_text()) for name in ('one', 'two')
    )
    assert one['accuracy/top1'] in [pytest.approx(100 * n / 9) for n in range(1, 9)]
    assert two['accuracy/top1'] == pytest.approx(one['accuracy/top1'])
