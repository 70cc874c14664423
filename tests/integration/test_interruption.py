"""Trainings that are killed and resumed end as those that were not, to the last bit."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import pytest

from .cli import LIMIT, ROOT, free_port, launch
from .configs import write_detector, write_segmenter, write_tiny
from .data import make_coco, make_label_maps
from .killer import content_of, differences

pytestmark = pytest.mark.slow

# One thread: with more, sums are taken in an order that may differ from run to run.
ENV = dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
CHANGES = """
    _base_ = './{base}'
    custom_imports = dict(imports=['mmcontnet', 'tests.integration.killer'])
    custom_hooks = [dict(type='EMAHook', momentum=0.1), dict(type='Killer', priority='LOWEST')]
    model = dict(backbone=dict(arch=dict(drop_rates=(0.1, 0.1, 0.1, 0.1), out_drop_rate=0.1)))
    optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
"""
EPOCHS = """
    train_dataloader = dict(num_workers=2, persistent_workers=True)
    train_cfg = dict(max_epochs=3, val_interval=3)
    param_scheduler = [dict(type='OneCycleLR', eta_max=0.01, total_steps=15, by_epoch=False)]
    default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best='auto'))
"""
ITERATIONS = """
    randomness = dict(seed=0)
    train_cfg = dict(max_iters=10, val_interval=5)
    default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=2))
"""


def write_epochs(folder: Path) -> Path:
    """Write a detector: five iterations an epoch, three epochs, of which the last is saved."""
    make_coco(folder / 'data/coco', images=5)
    path, base = folder / 'epochs.py', write_detector(folder)
    path.write_text(dedent(CHANGES + EPOCHS).format(base=base.name))
    return path


def write_iterations(folder: Path) -> Path:
    """Write a segmenter: ten iterations, saved after each second."""
    make_label_maps(folder / 'data/labels')
    path, base = folder / 'iterations.py', write_segmenter(folder)
    path.write_text(dedent(CHANGES + ITERATIONS).format(base=base.name))
    return path


def train(
    folder: Path, config: Path, work_dir: str, *options: str, kill: str = ''
) -> subprocess.CompletedProcess:
    """Train in one process, which may be killed."""
    command = ('train.py', config, '--work-dir', work_dir, *options)
    return launch(*command, cwd=folder, env=dict(ENV, **(dict(KILL=kill) if kill else {})))


def train_two(folder: Path, work_dir: str, *options: str) -> subprocess.CompletedProcess:
    """Train in two processes, which have what the launcher gives them, without its delays."""
    command = ('train.py', 'tiny.py', '--work-dir', work_dir, '--launcher', 'pytorch', *options)
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


@pytest.mark.parametrize(
    ('write', 'kills', 'resumed'),
    [
        # While the second checkpoint is written; and where the third epoch starts.
        (write_epochs, ('half:2', 'before_train_iter, LOWEST:6'), (None, 5, 10)),
        (write_iterations, ('before_train_iter, LOWEST:6',), (None, 4)),
    ],
)
def test_a_killed_training_ends_as_one_that_was_not(
    write: Callable[[Path], Path],
    kills: tuple[str, ...],
    resumed: tuple[int | None, ...],
    tmp_path: Path,
) -> None:
    config = write(tmp_path)
    runs = [train(tmp_path, config, 'whole')]
    runs += [train(tmp_path, config, 'stopped', '--resume', kill=kill) for kill in (*kills, '')]
    codes = [run.returncode for run in runs]
    assert codes == [0, *[-9 for _ in kills], 0], '\n'.join(run.stdout[-3000:] for run in runs)
    assert [resumed_at(run) for run in runs[1:]] == list(resumed)
    assert differences(content_of(tmp_path / 'stopped'), content_of(tmp_path / 'whole')) == []


def test_a_small_training_may_be_killed_at_every_step(tmp_path: Path) -> None:
    specs = ['epochs,1,0,8', 'iterations,1,0,8', 'epochs,2,0,40', 'epochs,2,1,40']
    command = [sys.executable, '-m', 'tests.integration.killer', tmp_path, *specs]
    env = dict(os.environ, **ENV, CUDA_VISIBLE_DEVICES='')
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    tried = re.findall(r': (\d+) of \d+ steps', result.stdout)
    assert len(tried) == len(specs) and sum(map(int, tried)) > 50


def test_one_of_two_processes_killed_ends_both_and_is_named(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    assert train_two(tmp_path, 'whole').returncode == 0
    killed = launch(
        *('dist_train.sh', 'tiny.py', 2, '--work-dir', 'stopped'),
        cwd=tmp_path,
        env=dict(ENV, PORT=free_port(), KILL='before_train_iter, LOWEST:2', KILL_RANK='1'),
    )
    assert killed.returncode > 0
    assert re.search(r'rank +: 1 .*\n +exitcode +: -9', killed.stdout), killed.stdout
    end = train_two(tmp_path, 'stopped', '--resume')
    assert end.returncode == 0, end.stdout
    assert resumed_at(end) == 1
    assert differences(content_of(tmp_path / 'stopped'), content_of(tmp_path / 'whole')) == []
