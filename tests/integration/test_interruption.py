"""Runs that are killed go on as if they had not been."""

import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from mmcontnet.engine import read_checkpoint

from .cli import ROOT, free_port, launch
from .configs import write_narrow, write_narrow_on

pytestmark = pytest.mark.slow

# One thread: with more, sums are taken in an order that may differ from run to run.
ENV = dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
CHANGES = """
    _base_ = './{base}'
    custom_imports = dict(imports=['mmcontnet', 'tests.integration.killer'])
    custom_hooks = [
        dict(type='EMAHook', momentum=0.1), dict(type='Killer')]
    model = dict(backbone=dict(arch=dict(drop_rates=(0.1, 0.1, 0.1, 0.1), out_drop_rate=0.1)))
    optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
    train_dataloader = dict(num_workers={workers}, persistent_workers={workers} > 0)
"""


def write_epochs(folder: Path, workers: int = 2) -> Path:
    """Write a Faster R-CNN on tree crowns: four iterations an epoch, four epochs."""
    config = 'faster_rcnn_cont_m_fpn_1x_coco.py'
    base = write_narrow_on(folder, config, 'data/tree_crowns', ('tree',))
    path = folder / 'epochs.py'
    path.write_text(
        dedent(CHANGES).format(base=base.name, workers=workers)
        + dedent(
            """
            train_cfg = dict(max_epochs=4, val_interval=4)
            param_scheduler = [
                dict(type='OneCycleLR', eta_max=0.01, total_steps=16, by_epoch=False)]
            default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best='auto'))
            """
        )
    )
    return path


def write_iterations(folder: Path) -> Path:
    """Write a PSPNet on nuclei: ten iterations, saved after each second."""
    base = write_narrow(folder, 'pspnet_cont_m_80k_cityscapes.py')
    path = folder / 'iterations.py'
    path.write_text(
        dedent(CHANGES).format(base=base.name, workers=0)
        + dedent(
            """
            train_cfg = dict(max_iters=10, val_interval=5)
            default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=2))
            """
        )
    )
    return path


def train(
    folder: Path,
    config: Path,
    work_dir: str,
    *options: str,
    kill: str = '',
    rank: int = 0,
    processes: int = 1,
    size: int | None = None,
) -> subprocess.CompletedProcess:
    """Train; the process of that rank may be killed, and files be no larger than ``size``."""
    tool, *count = ('dist_train.sh', processes) if processes > 1 else ('train.py',)
    env = dict(ENV, PORT=free_port(), KILL=kill, KILL_RANK=str(rank))
    command = (tool, config, *count, '--work-dir', work_dir, *options)
    return launch(*command, cwd=folder, env=env, size=size)


def train_two(
    folder: Path, config: Path, work_dir: str, *options: str
) -> subprocess.CompletedProcess:
    """Train in two processes, which have what the launcher gives them, without its delays."""
    command = ('train.py', config, '--work-dir', work_dir, '--launcher', 'pytorch', *options)
    env = dict(ENV, MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), WORLD_SIZE='2')
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(launch, *command, cwd=folder, env={**env, 'RANK': rank, 'LOCAL_RANK': rank})
            for rank in '01'
        ]
    first, second = (run.result() for run in runs)
    assert second.returncode == 0, first.stdout + second.stdout
    return first


def resumed_at(run: subprocess.CompletedProcess) -> int | None:
    """Return the iteration from which a run went on, None if it started."""
    found = re.search(r'resumed epoch: \d+, iter: (\d+)', run.stdout)
    return int(found[1]) if found else None


def last_of(folder: Path) -> dict[str, Any]:
    """Read the last checkpoint, less what depends on clocks and folders."""
    content = read_checkpoint((folder / 'last_checkpoint').read_text())
    scalars = content.pop('message_hub')['log_scalars']
    content['losses'] = {
        name: scalars[name].data[0].tolist()
        for name in scalars
        if name.startswith(('train/loss', 'train/lr', 'train/acc'))
    }
    del content['meta']
    return content


def assert_equal(a: Any, b: Any, where: str = '') -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f'{where}.{key}')
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f'{where}.{i}')
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.mark.parametrize(
    ('write', 'kills', 'resumed', 'iterations'),
    [
        # In writing the first checkpoint, with the second not noted yet, after it.
        (
            write_epochs,
            ('fsync:1', 'replace:2', 'iter:9'),
            (None, None, 8, 8, 8),
            16,
        ),
        (write_iterations, ('fsync:2', 'iter:5'), (None, 2, 4, 4), 10),
    ],
)
def test_a_run_killed_anywhere_ends_as_one_that_was_not(
    write: Any,
    kills: tuple[str, ...],
    resumed: tuple[int | None, ...],
    iterations: int,
    folder: Path,
) -> None:
    config = write(folder)
    whole = train(folder, config, 'whole')
    assert whole.returncode == 0, whole.stdout
    runs = []
    for kill in kills:
        runs.append(train(folder, config, 'stopped', '--resume', kill=kill))
        assert runs[-1].returncode == -9, runs[-1].stdout
    before = sorted((folder / 'stopped').glob('*_*.pth'))
    full = train(folder, config, 'stopped', '--resume', size=before[0].stat().st_size // 2)
    assert full.returncode == 1
    assert re.fullmatch(
        r"train\.py: error: cannot write '.*\.pth': File too large", full.stdout.splitlines()[-1]
    )
    assert 'Traceback' not in full.stdout
    assert sorted((folder / 'stopped').glob('*_*.pth')) == before
    end = train(folder, config, 'stopped', '--resume')
    assert end.returncode == 0, end.stdout
    assert [resumed_at(run) for run in (*runs, full, end)] == list(resumed)
    expected = last_of(folder / 'whole')
    assert_equal(last_of(folder / 'stopped'), expected)
    assert len(expected['losses']['train/loss']) == iterations
    assert not list((folder / 'stopped').glob('*.partial'))


def test_one_of_two_processes_killed_ends_both_and_is_named(folder: Path) -> None:
    config = write_epochs(folder, workers=1)
    whole = train_two(folder, config, 'whole')
    assert whole.returncode == 0, whole.stdout
    runs = []
    for rank, kill in ((1, 'iter:5'), (0, 'fsync:1')):
        run = train(folder, config, 'stopped', '--resume', kill=kill, rank=rank, processes=2)
        assert time.time() - (folder / 'killed').stat().st_mtime < 60
        assert run.returncode > 0
        assert re.search(rf'rank +: {rank} .*\n +exitcode +: -9', run.stdout), run.stdout
        runs.append(run)
    end = train_two(folder, config, 'stopped', '--resume')
    assert end.returncode == 0, end.stdout
    assert [resumed_at(run) for run in (*runs, end)] == [None, 4, 4]
    assert_equal(last_of(folder / 'stopped'), last_of(folder / 'whole'))
