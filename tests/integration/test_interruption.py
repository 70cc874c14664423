"""Trainings that are killed and resumed end as those that were not, to the last bit."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import pytest

from .cli import LIMIT, ROOT, free_port, launch
from .configs import write_detector, write_tiny
from .data import make_coco
from .killer import content_of, differences

pytestmark = pytest.mark.slow

# One thread: with more, sums are taken in an order that may differ from run to run.
ENV = dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
CONFIG = """
    _base_ = './{base}'
    custom_imports = dict(imports=['mmcontnet', 'tests.integration.killer'])
    custom_hooks = [dict(type='EMAHook', momentum=0.1), dict(type='Killer', priority='LOWEST')]
    model = dict(backbone=dict(arch=dict(drop_rates=(0.1, 0.1, 0.1, 0.1), out_drop_rate=0.1)))
    optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
    train_dataloader = dict(num_workers=2, persistent_workers=True)
    train_cfg = dict(max_epochs=3, val_interval=3)
    param_scheduler = [dict(type='OneCycleLR', eta_max=0.01, total_steps=15, by_epoch=False)]
    default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best='auto'))
"""


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


def test_a_killed_detector_ends_as_one_that_was_not(tmp_path: Path) -> None:
    # Five iterations an epoch, three epochs.
    make_coco(tmp_path / 'data/coco', images=5)
    base = write_detector(tmp_path)
    (tmp_path / 'config.py').write_text(dedent(CONFIG).format(base=base.name))
    # While the second checkpoint is written; and where the third epoch starts.
    variables = [dict(KILL='half:2'), dict(KILL='before_train_iter, LOWEST:6'), {}]
    command = ('train.py', 'config.py', '--work-dir')
    runs = [launch(*command, 'whole', cwd=tmp_path, env=ENV)]
    for kill in variables:
        runs.append(launch(*command, 'stopped', '--resume', cwd=tmp_path, env={**ENV, **kill}))
    codes = [run.returncode for run in runs]
    assert codes == [0, -9, -9, 0], '\n'.join(run.stdout[-3000:] for run in runs)
    assert [resumed_at(run) for run in runs[1:]] == [None, 5, 10]
    assert differences(content_of(tmp_path / 'stopped'), content_of(tmp_path / 'whole')) == []


def test_a_small_training_may_be_killed_at_any_step(tmp_path: Path) -> None:
    specs = ['epochs,1,0,20', 'iterations,1,0,25', 'epochs,2,0,80', 'epochs,2,1,80']
    command = [sys.executable, '-m', 'tests.integration.killer', tmp_path, *specs]
    env = dict(os.environ, **ENV, CUDA_VISIBLE_DEVICES='')
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    tried = re.findall(r': (\d+) of \d+ steps', result.stdout)
    assert len(tried) == len(specs) and sum(map(int, tried)) > 15


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
