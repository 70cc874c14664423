"""Train a detector, a segmenter or a classifier."""

import argparse
import os
import sys

import torch
from mmengine.config import Config

from mmcontnet.analysis.networks import build_model
from mmcontnet.engine import (
    BACKBONE,
    build_runner,
    check_data,
    check_model,
    errors_in_a_line,
    is_first_process,
    load_checkpoint,
    load_config,
    load_weights,
    parse_run_args,
    prepare_resume,
    process_group,
    read_weights,
    report_issues,
    validate_datasets,
)
from mmcontnet.errors import UserError, WeightMismatchError


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
        '--allow-missing',
        action='store_true',
        help='start with random weights where load_from, or the pretrained weights of the '
        'backbone, have none that fit, or with broken ones',
    )
    parser.add_argument(
        '--check-data',
        action='store_true',
        help='first look for broken files and entries in the data (tools/check_dataset.py)',
    )
    return parse_run_args(parser)


def check_load_from(cfg: Config, allow_missing: bool) -> None:
    """Check that the weights to start from hold the backbone, and tell what else they lack."""
    if not isinstance(cfg.load_from, str):  # as --cfg-options makes of a name with commas
        raise UserError(f'load_from must be one file or URL, got {cfg.load_from!r}')
    if allow_missing or 'backbone' not in cfg.model:
        read_weights(cfg.load_from)
        return
    # mmengine would merely warn.
    left = load_checkpoint(build_model(cfg, meta=True), cfg.load_from, needed=BACKBONE)
    if left and is_first_process():
        some = ', '.join(left[:3]) + (', ...' if len(left) > 3 else '')
        print(
            f'load_from {cfg.load_from!r} has no weights that fit {len(left)} tensors of the '
            f'model, which start at random: {some}',
            file=sys.stderr,
        )


def check_resume(cfg: Config) -> None:
    """Check that the checkpoint to go on from has all weights of the model, as they are."""
    weights = {
        name.removeprefix('module.'): tensor for name, tensor in read_weights(cfg.load_from).items()
    }
    if 'backbone' not in cfg.model:
        return
    model = build_model(cfg, meta=True)
    try:
        load_weights(model, weights, f'checkpoint {cfg.load_from!r}')
    except WeightMismatchError as error:
        raise UserError(str(error)) from error  # which no option overrides
    for name, tensor in model.state_dict().items():
        # Loading can resize weights, but nothing resizes what the optimizer knows of them.
        if name in weights and weights[name].shape != tensor.shape:
            raise UserError(
                f'cannot resume from {cfg.load_from!r}: {name} is {tuple(weights[name].shape)} '
                f'there and {tuple(tensor.shape)} here, as for another img_size'
            )


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
        start = cfg.get('load_from')
        if args.resume:
            cfg.resume = True
            cfg.load_from = None if args.resume == 'auto' else args.resume
        if cfg.get('resume') and not prepare_resume(cfg):
            # A run that was killed before its first checkpoint starts as it did.
            cfg.resume, cfg.load_from = False, start
        if cfg.get('resume'):
            check_resume(cfg)
        elif cfg.get('load_from'):
            check_load_from(cfg, args.allow_missing)
        check_model(cfg, args.allow_missing)
        parts = ['train', 'val'] if cfg.get('val_cfg') is not None else ['train']
        check_data(cfg, parts)
        if args.check_data:
            if args.launcher != 'none':
                # The others would wait in vain for one that decodes for longer than their timeout.
                raise UserError('--check-data is for one process; run tools/check_dataset.py first')
            workers = len(os.sched_getaffinity(0))
            if errors := report_issues(validate_datasets(cfg, parts, workers)):
                raise UserError(f'--check-data: {errors} mistakes in the data, listed above')
    except UserError as error:
        advice = (
            '; --allow-missing trains nevertheless'
            if isinstance(error, WeightMismatchError)
            else ''
        )
        # Of many processes one says it.
        sys.exit(f'train.py: error: {error}{advice}' if is_first_process() else 1)
    if args.check_only:
        return
    with errors_in_a_line('train.py'), process_group(cfg):
        # In one expression: the runner must be gone before the process group.
        build_runner(cfg).train()


if __name__ == '__main__':
    main()
