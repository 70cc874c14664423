"""Train a detector, a segmenter or a classifier."""

import argparse
import os
import sys
from contextlib import nullcontext

import torch
from mmengine.config import Config

from mmcontnet.engine import (
    CompileHook,
    ResumePoint,
    build_optimization,
    check_components,
    check_data,
    check_load_from,
    check_model,
    check_problem,
    find_resume_point,
    import_datasets,
    is_first_process,
    load_config,
    number_of_processes,
    odd_settings,
    owner_of,
    parse_run_args,
    report_issues,
    runner_of,
    validate_datasets,
)
from mmcontnet.errors import UserError, WeightMismatchError, exit_on_user_error
from mmcontnet.output import check_out


def parse_args() -> argparse.Namespace:
    """Read the command line; the options are mmdet's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision (GPU)')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate from the config's batch size to the real one",
    )
    parser.add_argument(
        '--compile',
        nargs='?',
        const='inductor',
        metavar='BACKEND',
        help='compile backbone and neck with torch.compile, for images padded to one size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or from the newest intact one in the work dir',
    )
    parser.add_argument(
        '--allow-missing',
        action='store_true',
        help='train even if weights in load_from or in the pretrained backbone do not fit (they '
        'stay random), or hold NaN',
    )
    parser.add_argument(
        '--check-data',
        action='store_true',
        help='first look for broken files and entries in the data (tools/check_dataset.py)',
    )
    return parse_run_args(parser)


def read_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the options that change it."""
    cfg = load_config(args.config, args.cfg_options, work_dir=args.work_dir, launcher=args.launcher)
    import_datasets(cfg)
    if args.amp:
        if not torch.cuda.is_available():
            raise UserError('--amp needs a GPU, and PyTorch sees none')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UserError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    return cfg


def check(cfg: Config, args: argparse.Namespace) -> tuple[ResumePoint | None, list[str]]:
    """Check everything that can be checked before training, once; the data on each node.

    Returns:
        Where to resume, None for a training from the start; and warnings for the run's log.
    """
    resume, warnings = None, []
    parts = ['train', 'val'] if cfg.get('val_cfg') is not None else ['train']
    if not is_first_process(args.launcher):
        if is_first_process(args.launcher, on_node=True):
            check_data(cfg, parts)
        return resume, warnings
    if args.resume:
        resume = find_resume_point(cfg, None if args.resume == 'auto' else args.resume)
    elif cfg.get('resume'):
        resume = find_resume_point(cfg, cfg.get('load_from'))
    if resume is not None:
        warnings = resume.warnings
    elif cfg.get('load_from'):
        warnings = check_load_from(cfg, args.allow_missing)
    if warnings and args.check_only:
        print(*warnings, sep='\n', file=sys.stderr)
    model = check_model(cfg, args.allow_missing)
    build_optimization(cfg, model)
    check_components(cfg, parts)
    odd = odd_settings(cfg, number_of_processes(args.launcher))
    check_data(cfg, parts)
    check_out(cfg.work_dir, option='work_dir')
    source = resume.checkpoint if resume else cfg.get('load_from')
    if args.check_data:
        if args.launcher != 'none':
            # The others would wait longer than their timeout for the one that decodes.
            raise UserError('--check-data is for one process; run tools/check_dataset.py first')
        workers = len(os.sched_getaffinity(0))
        issues = validate_datasets(cfg, parts, workers, model=model, checkpoint=source)
        if mistakes := report_issues(issues):
            raise UserError(f'--check-data: mistakes in the data: {mistakes}, listed above')
    else:
        odd += check_problem(cfg, model, parts, source)
    if odd and args.check_only:
        print(*odd, sep='\n', file=sys.stderr)
    return resume, [*warnings, *odd]


def main() -> None:
    """Check everything that can be checked, then train."""
    args = parse_args()
    silent = not is_first_process(args.launcher, on_node=True)
    with exit_on_user_error('train.py', silent=silent):
        cfg = read_config(args)
        hooks = [CompileHook(args.compile)] if args.compile else []
    trains = is_first_process(args.launcher) and not args.check_only
    # From now on, so that no other training changes where to resume.
    held = owner_of(cfg.work_dir) if trains else nullcontext()
    with exit_on_user_error('train.py'), held:
        try:
            resume, warnings = check(cfg, args)
        except WeightMismatchError as error:
            raise UserError(f'{error}; --allow-missing trains nevertheless') from error
        if args.check_only:
            if is_first_process(args.launcher):
                print(f'no mistakes found in {args.config}')
            return
        with runner_of(cfg, resume, warnings, hooks) as runner:
            runner.train()


if __name__ == '__main__':
    main()
