"""Count parameters, multiply-adds and activations of a network, in total and by its parts.

One multiply-add is one; attention's products, local aggregation and sliding attention count.
Activations are the elements of the outputs of everything that is counted. With --all, print the
table of the configs that mmcontnet/analysis/results.yml knows beside the papers' figures, and fail
if one of ours is not what that file says.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from mmcontnet.analysis.complexity import Cost, complexity, default_shape
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.analysis.report import markdown_table, write_json
from mmcontnet.analysis.results import read_figures
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?', help=NETWORK_HELP)
    parser.add_argument('--all', action='store_true', help="the table with the papers' figures")
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='image size in pixels (default: that of the results file, else 224 x 224 for '
        "classifiers, the crop for segmenters, and the ConTNet paper's 784 x 1344 for detectors)",
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures, by part')
    args = parser.parse_args()
    if (args.config is None) is not args.all:
        parser.error('give a CONFIG or --all')
    if args.all and args.shape:
        parser.error('--shape goes with a CONFIG; the results file says the sizes of --all')
    if args.shape and min(args.shape) < 1:
        parser.error(f'--shape takes positive numbers, got {args.shape[0]} {args.shape[1]}')
    if args.json and not args.json.resolve().parent.is_dir():
        parser.error(f'--json: no folder {str(args.json.parent)!r}')
    return args


def cells(cost: Cost) -> list[str]:
    """Format the numbers of a row."""
    return [
        f'{cost.parameters:,}',
        f'{cost.multiply_adds / 1e9:.3f} G',
        f'{cost.attention / 1e9:.3f} G',
        f'{cost.activations / 1e6:.1f} M',
    ]


def count_one(name: str, cfg: Config, shape: tuple[int, int]) -> dict[str, Any]:
    """Print a network by its parts, below what its config says of the paper."""
    result = complexity(cfg, shape)
    # The first comment says what the paper reports.
    path = Path(cfg.filename)
    lines = path.read_text().splitlines() if path.is_file() else []
    for line in takewhile(lambda line: line.startswith('#'), lines):
        print(line)
    print(f'{name} at {shape[0]} x {shape[1]}:')
    costs = {**result.parts, 'total': result.total}
    header = ['part', 'parameters', 'multiply-adds', 'of them attention', 'activations']
    print(markdown_table(header, [[part, *cells(cost)] for part, cost in costs.items()]))
    return dict(config=name, shape=shape, parts={k: asdict(v) for k, v in costs.items()})


def count_all() -> Iterator[dict[str, Any]]:
    """Count every network of the results file, and yield what it says beside what is counted."""
    figures = {k: v for k, v in read_figures().items() if 'same_network_as' not in v}
    for i, (name, figure) in enumerate(figures.items(), 1):
        print(f'{i}/{len(figures)} {name}', file=sys.stderr)
        result = complexity(load_config(str(CONFIGS / name)), tuple(figure['shape']))
        costs = {**result.parts, 'total': result.total}
        parts = {part: asdict(cost) for part, cost in costs.items()}
        yield dict(figure, config=name, parts=parts, counted=result.total)


def print_all(results: list[dict[str, Any]]) -> list[str]:
    """Print the README's table; return the entries that the results file would have to hold."""
    header = ['config', 'size', 'parameters', 'paper', 'multiply-adds', 'of them attention']
    rows, changed = [], []
    for result in results:
        parameters, multiply_adds, attention, activations = cells(result.pop('counted'))
        paper = result.get('paper', {})
        rows.append(
            [
                f'`{result["config"]}`',
                f'{result["shape"][0]} x {result["shape"][1]}',
                parameters,
                paper.get('parameters', '-'),
                multiply_adds,
                attention,
                paper.get('multiply_adds', '-'),
                activations,
                paper.get('source', '-'),
            ]
        )
        total = result['parts']['total']
        counted = {key: total[key] for key in result['ours']}
        if counted != result['ours']:
            changed.append(f'{result["config"]}: ours: {counted}, and not {result["ours"]}')
    print(markdown_table([*header, 'paper', 'activations', 'source'], rows))
    return changed


def main() -> None:
    """Count, print and write."""
    args = parse_args()
    # mmengine tells of every change of scope.
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    changed: list[str] = []
    result: Any
    try:
        if args.all:
            result = list(count_all())
            changed = print_all(result)
        else:
            cfg = load_config(args.config)
            shape = tuple(args.shape) if args.shape else default_shape(cfg)
            result = count_one(args.config, cfg, shape)
        if args.json:
            write_json(args.json, result)
    except (UserError, OSError) as error:
        sys.exit(f'complexity.py: error: {error}')
    for line in changed:
        print(f'complexity.py: error: results.yml is out of date: {line}', file=sys.stderr)
    sys.exit(1 if changed else 0)


if __name__ == '__main__':
    main()
