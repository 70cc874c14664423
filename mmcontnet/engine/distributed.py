"""Several processes where there is no GPU: gloo instead of NCCL."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from mmengine.config import Config


@contextmanager
def process_group(cfg: Config) -> Iterator[None]:
    """Start the process group that the runner will find, and end it afterwards.

    mmengine's own start-up calls CUDA whatever the backend, and wraps the model with a CUDA device
    id. With GPUs all is left to it; without, a gloo group and a wrapper for CPU modules are set up
    before the runner is built.

    Args:
        cfg: ``cfg.launcher`` is the command line's; ``model_wrapper_cfg`` is set where needed.
    """
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        if cfg.launcher == 'slurm':
            _read_slurm_environment()
        dist.init_process_group('gloo')
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **(cfg.get('model_wrapper_cfg') or {}),
            'device_ids': None,
        }
    yield
    # Not in a finally: after an error on one rank the others would wait for it here. A worker that
    # exits with the group alive may abort after a good run, so this is not left to the interpreter.
    if dist.is_initialized():
        dist.destroy_process_group()


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
