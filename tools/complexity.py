"""Print a network's parameters and multiply-adds below what its config says of the paper."""

import argparse
import sys
from itertools import takewhile
from pathlib import Path

from mmcontnet.analysis.complexity import complexity
from mmcontnet.engine import UserError, load_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape', nargs=2, type=int, metavar=('H', 'W'), help='image size in pixels'
    )
    args = parser.parse_args()
    try:
        cfg = load_config(args.config)
    except UserError as error:
        sys.exit(f'complexity.py: error: {error}')
    if 'backbone' not in (cfg.get('model') or {}):
        sys.exit(f'complexity.py: error: config {args.config!r} has no model.backbone')
    # Classifiers are compared at 224, detectors at the ConTNet paper's size.
    default = (224, 224) if cfg.get('default_scope') == 'mmpretrain' else (784, 1344)
    shape = tuple(args.shape) if args.shape else default
    result = complexity(cfg, shape)
    # The first comment says what the paper reports.
    lines = Path(args.config).read_text().splitlines()
    print(*takewhile(lambda line: line.startswith('#'), lines), sep='\n')
    print(
        f'{shape[0]} x {shape[1]}: {result.parameters:,} parameters, '
        f'{result.multiply_adds / 1e9:.3f} G multiply-adds '
        f'({result.attention / 1e9:.3f} G of them in attention)'
    )


if __name__ == '__main__':
    main()
