"""What training and testing have in common: options, and the runner."""

from __future__ import annotations

import argparse
import copy
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..checkpoint import safe_loading
from ..errors import UserError, add_traceback_option
from .config import ConfigOptions
from .distributed import end_with_torchrun, from_first_process, process_group
from .resume import ResumeHook, ResumePoint
from .seeding import SeedHook
from .writing import write_checkpoints_atomically

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LESS_MEMORY = (
    'In training, --amp, --cfg-options model.backbone.with_cp=True and a smaller '
    'train_dataloader.batch_size need less'
)


class CrowdHook(Hook):
    """Has COCO's annotations without ``iscrowd`` be no crowds in evaluation too.

    mmdet takes them so in training, but pycocotools fails at them. mmdet's metrics have no public
    name for what they read from their file.
    """

    def before_val(self, runner: Runner) -> None:
        """Complete the annotations that are validated with."""
        self._complete(runner.val_evaluator)

    def before_test(self, runner: Runner) -> None:
        """Complete the annotations that are tested with."""
        self._complete(runner.test_evaluator)

    def _complete(self, evaluator: Evaluator) -> None:
        for metric in evaluator.metrics:
            coco = vars(metric).get('_coco_api')
            for annotation in coco.dataset.get('annotations', ()) if coco else ():
                annotation.setdefault('iscrowd', 0)


def parse_run_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add the options that every run takes, and parse the command line."""
    parser.add_argument('--work-dir', help='folder of logs, checkpoints and metrics')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='change the config, e.g. model.backbone.with_cp=True train_dataloader.batch_size=4',
    )
    parser.add_argument(
        '--check-only', action='store_true', help='check config, data and weights, and stop'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    # Older launchers pass it as an argument, torchrun in the environment.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    add_traceback_option(parser)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    end_with_torchrun()
    return args


@contextmanager
def runner_of(
    cfg: Config,
    resume: ResumePoint | None = None,
    warnings: Sequence[str] = (),
    hooks: Sequence[Hook] = (),
) -> Iterator[Runner]:
    """Build the runner of a config, and have it read, write and seed by this project's rules.

    They are in force within the context, and for this runner, only: checkpoints are read without
    running code from them (:func:`mmcontnet.checkpoint.safe_loading`) and written so that they are
    always intact (:mod:`.writing`); a resumed training repeats an uninterrupted one
    (:mod:`.seeding`); several processes need no GPU (:mod:`.distributed`). Afterwards the runner is
    empty, whoever still holds it.

    Args:
        cfg: The whole config, which stays as it is.
        resume: Where to resume; of several processes the first decides.
        warnings: For the run's log, of the first process.
        hooks: More hooks than the config's.

    Raises:
        UserError: If a file cannot be written because the disk is full, or a GPU has too little
            memory.
    """
    cfg = copy.deepcopy(cfg)
    try:
        with process_group(cfg) as replaced_sync_bn, safe_loading():
            resume = from_first_process(resume)
            cfg.resume = resume is not None
            if resume is not None:
                cfg.load_from = resume.checkpoint
                cfg.randomness = resume.randomness
            runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
            for hook in (SeedHook(), ResumeHook(), CrowdHook(), *hooks):
                runner.register_hook(hook)
            write_checkpoints_atomically(runner)
            for warning in warnings:
                runner.logger.warning(warning)
            if replaced_sync_bn:
                runner.logger.warning('SyncBN needs a GPU: each process uses BatchNorm instead')
            yield runner
            vars(runner).clear()  # of the model: see process_group
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        path = error.filename or 'the logs'
        raise UserError(f'cannot write {path}: {error.strerror}') from error
    except torch.OutOfMemoryError as error:
        raise UserError(f'the GPU has too little memory. {_LESS_MEMORY} ({error})') from error
