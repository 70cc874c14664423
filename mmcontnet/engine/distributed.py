"""Several processes where there is no GPU: gloo instead of NCCL."""

from __future__ import annotations

import gc
import os
import subprocess
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config


def is_first_process() -> bool:
    """Tell whether this process speaks for all that torchrun or srun started."""
    return os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'


@contextmanager
def process_group(cfg: Config) -> Iterator[None]:
    """Start the process group that the runner will find, and end it afterwards.

    mmengine's own start-up calls CUDA whatever the backend, and wraps the model with a CUDA device
    id. With GPUs all is left to it; without, a gloo group and a wrapper for CPU modules are set up
    before the runner is built. The caller must hold no reference to the runner at the end: DDP
    keeps the group's threads alive, and a process that exits with them may abort after a good run.

    Args:
        cfg: ``cfg.launcher`` is the command line's; ``model_wrapper_cfg`` is set where needed.
    """
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        if cfg.launcher == 'slurm':
            _read_slurm_environment()
        dist.init_process_group('gloo')
        named = _replace_sync_bn(cfg.model)
        if (cfg.pop('sync_bn', None) or named) and is_first_process():
            print('no GPU: SyncBN needs one, BatchNorm of each process is used instead')
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **(cfg.get('model_wrapper_cfg') or {}),
            'device_ids': None,
        }
    yield
    # Not in a finally: after an error on one rank the others would wait for it here.
    if dist.is_initialized():
        gc.collect()  # runners and models are in reference cycles
        dist.destroy_process_group()


def _replace_sync_bn(config: Any) -> bool:
    """Turn SyncBN into BN wherever the config of a model names it; tell whether it did."""
    if isinstance(config, MutableMapping):
        replaced = config.get('type') == 'SyncBN'
        if replaced:
            config['type'] = 'BN'
        return any([_replace_sync_bn(value) for value in config.values()]) or replaced
    if isinstance(config, list | tuple):
        return any([_replace_sync_bn(value) for value in config])
    return False


def _read_slurm_environment() -> None:
    """Translate srun's variables into those of torchrun."""
    os.environ['RANK'] = os.environ['SLURM_PROCID']
    os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
    os.environ['LOCAL_RANK'] = os.environ['SLURM_LOCALID']
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in os.environ:
        hosts = subprocess.run(
            ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']],
            check=True,
            capture_output=True,
            text=True,
        )
        os.environ['MASTER_ADDR'] = hosts.stdout.split()[0]
