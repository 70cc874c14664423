"""Look for broken files and entries in the data sets of a config, and name each.

All images and label maps are decoded, as training would. Warnings, of what training skips or
takes as it is, are counted, and are no errors.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from mmengine.config import DictAction
from mmengine.logging import MMLogger

from mmcontnet.analysis.report import write_json
from mmcontnet.engine import check_data, find_faults, load_config, report_faults
from mmcontnet.errors import UserError

SPLITS = ['train', 'val', 'test']


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of a detector, segmenter or classifier')
    parser.add_argument('--split', nargs='+', choices=SPLITS, help='default: all of the config')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all that was found')
    parser.add_argument(
        '--workers',
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar='N',
        help='processes that decode (default: %(default)s)',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    if args.workers < 0:
        parser.error(f'--workers takes 0 or more, got {args.workers}')
    if args.json and not args.json.resolve().parent.is_dir():
        parser.error(f'--json: no folder {str(args.json.parent)!r}')
    return args


def main() -> None:
    """Look, print and write."""
    args = parse_args()
    # mmengine tells of every change of scope.
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    try:
        cfg = load_config(args.config, args.cfg_options)
        splits = args.split or [split for split in SPLITS if cfg.get(f'{split}_dataloader')]
        for split in splits:
            if not cfg.get(f'{split}_dataloader'):
                raise UserError(f'config {args.config!r} has no {split}_dataloader')
        if not splits:
            raise UserError(f'config {args.config!r} has no data set')
        check_data(cfg, splits)
        found = find_faults(cfg, splits, args.workers)
        errors = report_faults(found)
        if args.json:
            faults = {key: [fault._asdict() for fault in faults] for key, faults in found.items()}
            write_json(args.json, faults)
    except (UserError, OSError) as error:
        sys.exit(f'check_dataset.py: error: {error}')
    if errors:
        sys.exit(f'check_dataset.py: error: faults in the data of {args.config}: {errors}')
    print(f'no faults in {", ".join(found)}')


if __name__ == '__main__':
    main()
