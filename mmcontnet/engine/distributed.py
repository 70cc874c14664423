"""Several processes, with gloo in place of NCCL where there is no GPU."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, init_dist
from mmengine.utils.dl_utils import set_multi_processing

from ..errors import UserError

T = TypeVar('T')

#: What a launcher tells each process in the environment.
_VARIABLES = {
    'pytorch': ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
}


def is_first_process(launcher: str, *, on_node: bool = False) -> bool:
    """Tell whether this is the first of the launcher's processes (on this node), or alone."""
    return launcher == 'none' or os.environ.get(_VARIABLES[launcher][on_node], '0') == '0'


def number_of_processes(launcher: str | None) -> int:
    """Return how many processes the launcher has started on all machines; 1 without one."""
    return int(os.environ.get(_VARIABLES.get(launcher or '', ('',) * 3)[2], 1))


def end_with_torchrun() -> None:
    """Have Linux end this process, if torchrun started it, when torchrun is killed."""
    if 'TORCHELASTIC_RUN_ID' in os.environ and sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.environ.get('MMCONTNET_LAUNCHER', str(os.getppid())) != str(os.getppid()):
            sys.exit('the launcher was killed')  # while this process was starting


def from_first_process(value: T) -> T:
    """Return the value that the first process of the group gave."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


@contextmanager
def process_group(cfg: Config) -> Iterator[bool]:
    """Start the process group that mmengine's runner will use, and end it afterwards.

    With GPUs this is mmengine's own start-up. That calls CUDA whatever the backend, and wraps the
    model with a CUDA device id; without GPUs a gloo group and a wrapper for CPU modules are set up
    instead. At the end nothing may hold the model: DDP keeps the group's threads alive, and a
    process that exits with them may abort after a good run.

    Args:
        cfg: ``cfg.launcher`` is the command line's. Without GPUs ``model_wrapper_cfg`` is set, and
            SyncBN, which needs a GPU, becomes BN.

    Yields:
        Whether there was SyncBN to replace.

    Raises:
        UserError: If no launcher has started this process, or the processes cannot meet.
    """
    replaced = False
    if cfg.launcher != 'none':
        _start_group(cfg)
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        replaced = any([cfg.pop('sync_bn', None), replace_sync_bn(cfg.model)])
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **(cfg.get('model_wrapper_cfg') or {}),
            'device_ids': None,
        }
    yield replaced
    # Not in a finally: after an error in one process the others would wait for it here.
    if dist.is_initialized():
        gc.collect()  # runners and models are in reference cycles
        dist.destroy_process_group()


def replace_sync_bn(config: Any) -> bool:
    """Turn SyncBN into BN wherever the config of a model names it; tell whether it did."""
    if isinstance(config, MutableMapping):
        replaced = config.get('type') == 'SyncBN'
        if replaced:
            config['type'] = 'BN'
        return any([replace_sync_bn(value) for value in config.values()]) or replaced
    if isinstance(config, list | tuple):
        return any([replace_sync_bn(value) for value in config])
    return False


def _start_group(cfg: Config) -> None:
    if missing := [name for name in _VARIABLES[cfg.launcher] if name not in os.environ]:
        raise UserError(
            f'--launcher {cfg.launcher} is for processes that tools/dist_train.sh or '
            f'tools/slurm_train.sh starts: the environment has no {", ".join(missing)}'
        )
    if cfg.launcher == 'slurm':
        _read_slurm_environment()
    try:
        if not torch.cuda.is_available():
            dist.init_process_group('gloo')
            return
        number, gpus = int(os.environ['LOCAL_RANK']), torch.cuda.device_count()
        if number >= gpus:
            raise UserError(f'no GPU for process {number + 1} of this machine, which has {gpus}')
        environment = cfg.get('env_cfg') or {}
        # As the runner does; init_dist alone would choose another way to start processes.
        set_multi_processing(**environment.get('mp_cfg') or {}, distributed=True)
        init_dist(cfg.launcher, **environment.get('dist_cfg') or {})
    except dist.DistError as error:
        place = f'{os.environ["MASTER_ADDR"]}:{os.environ["MASTER_PORT"]}'
        reason = str(error).partition('\n')[0]
        raise UserError(
            f'the processes cannot meet at {place} (MASTER_ADDR, MASTER_PORT): {reason}'
        ) from error


def _read_slurm_environment() -> None:
    """Translate srun's variables into those of torchrun."""
    os.environ['RANK'] = os.environ['SLURM_PROCID']
    os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
    os.environ['LOCAL_RANK'] = os.environ['SLURM_LOCALID']
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in os.environ:
        command = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        try:
            hosts = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f'{" ".join(command)}: {error}; set MASTER_ADDR') from error
        os.environ['MASTER_ADDR'] = hosts.split()[0]
