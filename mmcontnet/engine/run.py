"""What training and testing have in common: options, and the runner."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..errors import UserError
from .seeding import make_reproducible

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def parse_run_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add the options that every run takes, and parse the command line."""
    parser.add_argument('--work-dir', help='folder of logs, checkpoints and metrics')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change the config, e.g. model.backbone.with_cp=True train_dataloader.batch_size=4',
    )
    parser.add_argument(
        '--check-only', action='store_true', help='check config, data and weights, and stop'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    # Older launchers pass it as an argument, torchrun in the environment.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def build_runner(cfg: Config) -> Runner:
    """Build the runner that the config names, or mmengine's own."""
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    make_reproducible(runner)
    return runner


@contextmanager
def errors_in_a_line(tool: str) -> Iterator[None]:
    """End a run in one line if it cannot write its files, as on a full disk."""
    try:
        yield
    except UserError as error:
        sys.exit(f'{tool}: error: {error}')
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        sys.exit(f'{tool}: error: cannot write {error.filename or "logs"}: {error.strerror}')
