"""Look for broken files and entries in the data sets of a config, and name each.

All images and label maps are loaded, as in training. What training skips or uses unchanged, such as
boxes that stick out of their image, is counted in a warning and is no error.
"""

import os
from pathlib import Path

from mmcontnet.analysis import report
from mmcontnet.builders import build_model, quiet
from mmcontnet.engine import (
    ConfigOptions,
    check_data,
    import_datasets,
    load_config,
    report_issues,
    validate_datasets,
)
from mmcontnet.errors import UserError
from mmcontnet.output import check_out

SPLITS = ['train', 'val', 'test']


def main() -> None:
    """Check, print and write."""
    parser = report.tool_parser(__doc__)
    parser.add_argument('config', help='config file of a detector, segmenter or classifier')
    parser.add_argument('--split', nargs='+', choices=SPLITS, help='default: all of the config')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all that was found')
    workers = len(os.sched_getaffinity(0))
    parser.add_argument('--workers', type=int, default=workers, metavar='N', help='processes')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE')
    args = parser.parse_args()
    if args.workers < 0:
        parser.error(f'--workers takes 0 or more, got {args.workers}')
    with report.quiet_tool('check_dataset.py'):
        if args.json:
            check_out(args.json, ('.json',), '--json')
        cfg = load_config(args.config, args.cfg_options)
        splits = args.split or [split for split in SPLITS if cfg.get(f'{split}_dataloader')]
        for split in splits or SPLITS[:1]:
            if not cfg.get(f'{split}_dataloader'):
                raise UserError(f'config {args.config!r} has no {split}_dataloader')
        import_datasets(cfg)
        check_data(cfg, splits)
        with quiet():
            model = build_model(cfg, meta=True) if cfg.get('model') else None
        issues = validate_datasets(cfg, splits, args.workers, model=model)
        errors = report_issues(issues)
        if args.json:
            content = {key: [issue._asdict() for issue in found] for key, found in issues.items()}
            report.write_json(args.json, content)
        if errors:
            raise UserError(f'mistakes in the data of {args.config}: {errors}, listed above')
    print(f'no mistakes found in {", ".join(issues)}')


if __name__ == '__main__':
    main()
