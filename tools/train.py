"""Train a detector, a segmenter or a classifier."""

import argparse
import os
import sys

import torch

from mmcontnet.engine import (
    UserError,
    build_runner,
    check_checkpoint,
    check_data,
    check_model,
    find_faults,
    is_first_process,
    load_config,
    parse_run_args,
    process_group,
    report_faults,
)


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
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or from the last one in the work dir',
    )
    parser.add_argument(
        '--check-data',
        action='store_true',
        help='first look for broken files and entries in the data (tools/check_dataset.py)',
    )
    return parse_run_args(parser)


def main() -> None:
    """Check everything that can be checked, then train."""
    args = parse_args()
    try:
        cfg = load_config(
            args.config, args.cfg_options, work_dir=args.work_dir, launcher=args.launcher
        )
        if args.amp:
            if not torch.cuda.is_available():
                raise UserError('--amp needs a GPU, and PyTorch sees none')
            cfg.optim_wrapper.type = 'AmpOptimWrapper'
            cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        if args.auto_scale_lr:
            if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
                raise UserError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
            cfg.auto_scale_lr.enable = True
        if args.resume:
            cfg.resume = True
            cfg.load_from = None if args.resume == 'auto' else args.resume
        if cfg.get('load_from'):
            check_checkpoint(cfg.load_from)
        check_model(cfg)
        parts = ['train', 'val'] if cfg.get('val_cfg') is not None else ['train']
        check_data(cfg, parts)
        if args.check_data:
            if args.launcher != 'none':
                # The others would wait in vain for one that decodes for longer than their timeout.
                raise UserError('--check-data is for one process; run tools/check_dataset.py first')
            if errors := report_faults(find_faults(cfg, parts, os.cpu_count() or 1)):
                raise UserError(f'--check-data: faults in the data: {errors}')
    except UserError as error:
        # Of many processes one says it.
        sys.exit(f'train.py: error: {error}' if is_first_process() else 1)
    if args.check_only:
        return
    with process_group(cfg):
        # In one expression: the runner must be gone before the process group.
        build_runner(cfg).train()


if __name__ == '__main__':
    main()
