"""Kill small trainings with kill -9 at each of their steps, resume them, and compare the work dirs.

`python -m tests.integration.killer FOLDER LOOP,PROCESSES,RANK,EVERY ...` tries each EVERY-th step
of the process RANK of PROCESSES, for each LOOP of `LOOPS`. A step is a hook point, before and after
all other hooks, and a change of a file in the work dir. In processes that import this for their
config, KILL names the step, as `half:2` for the second of that name, and KILL_RANK the process.
"""

import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401  forks have what each runner imports
import torch
import torchvision  # noqa: F401
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS, METRICS, MODELS

from mmcontnet.checkpoint import read_checkpoint
from mmcontnet.engine import find_resume_point, owner_of, runner_of

from ..engine.runs import Recorder, tiny_config
from .cli import free_port

#: Changes of the config.
LOOPS: dict[str, dict[str, Any]] = {
    'epochs': {},
    # There are validations without a checkpoint, and checkpoints without a validation.
    'iterations': {
        'train_cfg.max_iters': 6,
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 3,
    },
}


class Steps:
    """Counts the steps of a process, and kills it at one.

    Args:
        kill: The number of the step, or its name and which of that name.
    """

    def __init__(self, kill: int | str | None) -> None:
        self.names: list[str] = []
        self._kill = kill

    def __call__(self, name: str, damage: Callable[[], object] = lambda: None) -> None:
        """Go on, or do the damage and kill."""
        self.names.append(name)
        if self._kill in (len(self.names) - 1, f'{name}:{self.names.count(name)}'):
            damage()
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, folder: Path) -> None:
        """Count the changes of a folder's files; a file may be half written, a note empty."""

        def audit(event: str, args: tuple[Any, ...]) -> None:
            if event not in ('open', 'os.rename', 'os.remove') or f'{folder}/' not in str(args[0]):
                return
            name = os.path.basename(args[0])
            if event != 'open' or args[2] & os.O_ACCMODE:
                self(f'{event} {name}')
                if name == 'last_checkpoint':
                    self(f'empty {name}', lambda: Path(args[0]).write_text(''))

        fsync = os.fsync

        def half(file: int) -> None:
            self('half', lambda: os.ftruncate(file, os.fstat(file).st_size // 2))
            fsync(file)

        sys.addaudithook(audit)
        os.fsync = half


steps = Steps(None)
if 'KILL' in os.environ and os.environ.get('RANK', '0') == os.environ.get('KILL_RANK', '0'):
    steps = Steps(os.environ['KILL'])
    steps.watch(Path('stopped'))


@HOOKS.register_module()
class Killer(Hook):
    """Counts the hook points, at its priority."""

    def __getattribute__(self, name: str) -> Any:
        if name in Hook.stages:
            return lambda *args, **kwargs: steps(f'{name}, {self.priority}')
        return super().__getattribute__(name)


@MODELS.register_module()
class Walker(Recorder):
    """Predicts the number that it learns."""

    def forward(self, samples: torch.Tensor, mode: str) -> Any:
        if mode == 'predict':
            return self.weight.detach().expand(len(samples))
        return super().forward(samples, mode)


@METRICS.register_module()
class Distance(BaseMetric):
    """Is best within the training."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict(score=-((float(torch.stack(results).mean()) + 4) ** 2))


def config_of(folder: Path, loop: str) -> Config:
    """Write a config with EMA and a schedule by the score, which keeps one checkpoint and the best.

    It has three times two iterations; see also ``LOOPS``.
    """
    changes: dict[str, Any] = {
        'model.type': 'Walker',
        'val_evaluator.type': 'Distance',
        'train_dataloader.batch_size': 4,
        'default_hooks.checkpoint': dict(max_keep_ckpts=1, save_best='score', rule='greater'),
        'custom_hooks': [
            dict(type='EMAHook', momentum=0.1),
            dict(type='Killer', priority='HIGHEST'),
            dict(type='Killer', priority='LOWEST'),
        ],
        'param_scheduler': [
            dict(type='ReduceOnPlateauLR', monitor='score', rule='greater', patience=0)
        ],
    }
    return tiny_config(folder, loop == 'epochs', **changes, **LOOPS[loop])


def run(folder: Path, loop: str, processes: int, rank: int = 0, kill: int | None = None) -> int:
    """Train or resume in forks, and return how the one of that rank ended, or another."""
    env = dict(WORLD_SIZE=str(processes), MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    children = []
    for number in range(processes):
        children.append(os.fork())
        if children[-1] == 0:
            code = 1
            try:
                os.environ.update(env, RANK=str(number), LOCAL_RANK=str(number))
                train(folder, loop, kill if number == rank else None)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
    first, status = os.wait()
    statuses = {first: status}
    for child in {*children} - {first}:
        if status != 0:  # as torchrun does
            os.kill(child, signal.SIGKILL)
        statuses[child] = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(statuses[children[rank]] or max(statuses.values()))


def train(folder: Path, loop: str, kill: int | None) -> None:
    """Do what train.py does, and note the steps."""
    global steps
    log = os.open(f'{folder}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    cfg, rank = config_of(folder, loop), os.environ['RANK']
    cfg.launcher = 'pytorch' if os.environ['WORLD_SIZE'] != '1' else 'none'
    steps = Steps(kill)
    steps.watch(folder)
    with owner_of(str(folder)) if rank == '0' else nullcontext():
        with runner_of(cfg, find_resume_point(cfg) if rank == '0' else None) as runner:
            runner.train()
    Path(f'{folder}.{rank}').write_text('\n'.join(steps.names))


def content_of(folder: Path) -> dict[str, Any]:
    """Read what a training leaves beside its logs, less what depends on clocks and folders."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == '.pth':
            content = read_checkpoint(path)
            hub, meta = content.pop('message_hub'), content.pop('meta')
            content['meta'] = meta['epoch'], meta['iter'], meta['seed']
            content['scalars'] = {
                name: buffer.data[0].tolist() if isinstance(buffer, HistoryBuffer) else buffer
                for name, buffer in hub['log_scalars'].items()
                if 'time' not in name and 'memory' not in name
            }
            content['info'] = {
                name: os.path.basename(value) if name.endswith('ckpt') else value
                for name, value in hub['runtime_info'].items()
                if name not in ('cfg', 'experiment_name', 'run', 'eta', 'epoch', 'iter')
            }
            found[path.name] = content
        elif path.name == 'last_checkpoint':
            found[path.name] = os.path.basename(path.read_text())
        elif '.pth' in path.name:
            found[path.name] = 'left over'
    return found


def differences(a: Any, b: Any, where: str = '') -> list[str]:
    """List where two contents differ; of tensors, in any bit."""
    if type(a) is not type(b):
        return [where]
    if isinstance(a, dict):
        if list(a) != list(b):
            return [f'{where} has {list(a)} instead of {list(b)}']
        return [found for key in a for found in differences(a[key], b[key], f'{where}.{key}')]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f'{where}: {len(a)} instead of {len(b)}']
        pairs = enumerate(zip(a, b, strict=True))
        return [found for i, pair in pairs for found in differences(*pair, f'{where}.{i}')]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [where]


def main() -> None:
    """Try what the command line says; exit with 1 if anything is lost."""
    lost = 0
    for spec in sys.argv[2:]:
        loop, *numbers = spec.split(',')
        processes, rank, every = map(int, numbers)
        whole, start = Path(sys.argv[1]).resolve() / spec / 'whole', time.monotonic()
        whole.parent.mkdir(parents=True)
        assert run(whole, loop, processes) == 0, Path(f'{whole}.log').read_text()
        expected = content_of(whole)
        names = Path(f'{whole}.{rank}').read_text().split('\n')
        kills = range(len(names) - 1, -1, -every)
        for kill in kills:
            stopped = whole.parent / f'stopped{kill}'
            codes = run(stopped, loop, processes, rank, kill), run(stopped, loop, processes)
            found = differences(content_of(stopped), expected)
            if codes == (-signal.SIGKILL, 0) and not found:
                shutil.rmtree(stopped)
                continue
            lost += 1
            print(f'{spec}: {kill}, {names[kill]}: exits {codes}, differs in {found}', flush=True)
        seconds = time.monotonic() - start
        print(f'{spec}: {len(kills)} of {len(names)} steps in {seconds:.0f} s', flush=True)
    sys.exit(lost > 0)


if __name__ == '__main__':
    main()
