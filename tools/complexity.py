"""Count parameters and MACs of a network, in total and by its parts.

MACs include attention's two matrix products, local aggregation and sliding attention. With --all,
count every config in mmcontnet/analysis/results.yml and print the counts beside the papers'; fail
if a count differs from that file.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmcontnet.analysis import report
from mmcontnet.analysis.complexity import Cost, complexity, default_shape
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.analysis.results import read_figures
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = report.tool_parser(__doc__)
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument('config', nargs='?', help=NETWORK_HELP)
    network.add_argument('--all', action='store_true', help="the table with the papers' figures")
    size: Any = dict(nargs=2, type=report.positive_int, metavar=('H', 'W'))
    shape = (
        'image size in pixels (default: that of the results file, else 224 x 224 for classifiers, '
        "the crop for segmenters, and the ConTNet paper's 784 x 1344 for detectors)"
    )
    parser.add_argument('--shape', help=shape, **size)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures, by part')
    return parser.parse_args()


def cells(cost: Cost) -> list[str]:
    """Format the numbers of a row."""
    return [
        f'{cost.parameters:,}',
        f'{cost.multiply_adds / 1e9:.3f} G',
        f'{cost.attention / 1e9:.3f} G',
    ]


def count_one(name: str, cfg: Config, shape: tuple[int, int]) -> dict[str, Any]:
    """Print a network by its parts, below what its config says of the paper."""
    result = complexity(cfg, shape)
    # The first comment says what the paper reports.
    path = Path(cfg.filename)
    lines = path.read_text().splitlines() if path.is_file() else []
    print(*takewhile(lambda line: line.startswith('#'), lines), sep='\n')
    print(f'{name} at {shape[0]} x {shape[1]}:')
    costs = {**result.parts, 'total': result.total}
    header = ['part', 'parameters', 'MACs', 'of them attention']
    print(report.markdown_table(header, [[part, *cells(cost)] for part, cost in costs.items()]))
    return dict(config=name, shape=shape, parts={k: asdict(v) for k, v in costs.items()})


def count_all() -> Iterator[dict[str, Any]]:
    """Count every network of the results file, and yield what it says beside what is counted."""
    figures = {k: v for k, v in read_figures().items() if 'same_network_as' not in v}
    for i, (name, figure) in enumerate(figures.items(), 1):
        print(f'{i}/{len(figures)} {name}', file=sys.stderr)
        total = complexity(load_config(str(CONFIGS / name)), tuple(figure['shape'])).total
        yield dict(figure, config=name, counted=asdict(total))


def print_all(results: list[dict[str, Any]]) -> None:
    """Print a row a config, with what the papers print."""
    header = ['config', 'size', 'parameters', 'paper', 'MACs', 'of them attention']
    rows = []
    for result in results:
        parameters, multiply_adds, attention = cells(Cost(**result['counted']))
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
                paper.get('source', '-'),
            ]
        )
    print(report.markdown_table([*header, 'paper', 'source'], rows))


def main() -> None:
    """Count, print and write."""
    args = parse_args()
    with report.quiet_tool('complexity.py'):
        if args.all and args.shape:
            raise UserError('--shape goes with a CONFIG; the results file says the sizes of --all')
        if args.json:
            report.check_out(args.json, ('.json',), '--json')
        if not args.all:
            cfg = load_config(args.config)
            result: Any = count_one(args.config, cfg, tuple(args.shape or default_shape(cfg)))
        else:
            result = list(count_all())
            print_all(result)
        if args.json:
            report.write_json(args.json, result)
        for figure in result if args.all else []:
            if not figure['ours'].items() <= figure['counted'].items():
                raise UserError(
                    f'results.yml is out of date: {figure["config"]}: ours: '
                    f'{figure["counted"]}, and not {figure["ours"]}'
                )


if __name__ == '__main__':
    main()
