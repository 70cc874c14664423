"""Count parameters and MACs of a network, in total and by its parts.

MACs include attention's two matrix products, local aggregation and sliding attention. --memory
estimates, without a GPU, how much of a GPU's memory a training takes. With --all,
count every config in mmcontnet/analysis/results.yml, and fail if a count differs from that file.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmcontnet.analysis import report
from mmcontnet.analysis.complexity import Cost, complexity, default_shape
from mmcontnet.analysis.memory import training_memories
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.analysis.results import read_figures
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError
from mmcontnet.output import check_out

COSTS = ['parameters', 'MACs', 'of them attention']


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = report.tool_parser(__doc__)
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument('config', nargs='?', help=NETWORK_HELP)
    network.add_argument('--all', action='store_true', help='count what the results file has')
    size: Any = dict(nargs=2, type=report.positive_int, metavar=('H', 'W'))
    shape = (
        'image size in pixels (default: that of the results file, else 224 x 224 for classifiers, '
        "the crop for segmenters, and the ConTNet paper's 784 x 1344 for detectors)"
    )
    parser.add_argument('--shape', help=shape, **size)
    memory = 'estimate the GPU memory of a training step with N images, without its losses'
    parser.add_argument('--memory', type=report.positive_int, metavar='N', help=memory)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures, by part')
    return parser.parse_args()


def cells(cost: Cost) -> list[str]:
    """Format the numbers of a row."""
    return [
        f'{cost.parameters:,}',
        f'{cost.multiply_adds / 1e9:.3f} G',
        f'{cost.attention / 1e9:.3f} G',
    ]


def count_one(name: str, size: list[int] | None, batch_size: int | None) -> dict[str, Any]:
    """Print a network by its parts, and the memory of a training step if there is a batch."""
    cfg = load_config(name)
    shape = tuple(size or default_shape(cfg))
    result = complexity(cfg, shape)
    costs = {**result.parts, 'total': result.total}
    print(f'{name} at {shape[0]} x {shape[1]}:')
    report.print_table(['part', *COSTS], ([part, *cells(cost)] for part, cost in costs.items()))
    found = dict(config=name, shape=shape, parts={k: asdict(v) for k, v in costs.items()})
    if batch_size:
        found['training_memory'] = memory = training_memories(cfg, shape, batch_size)
        sizes = {key: f'{size / 2**30:.1f} GiB' for key, size in memory.items()}
        text = '{fp32} in fp32 and {half} in half precision; '
        if 'half_with_cp' in sizes:
            text += '{fp32_with_cp} and {half_with_cp} with model.backbone.with_cp=True; '
        images = f'{batch_size} image{"s" * (batch_size > 1)}'
        print(f'training with {images} on a GPU: {text.format(**sizes)}and more for the losses')
    return found


def count_all() -> list[dict[str, Any]]:
    """Print a row for each network of the results file; return that beside what is counted."""
    results, rows = [], []
    for name, figure in read_figures().items():
        if 'same_network_as' not in figure:
            print(name, file=sys.stderr)
            shape = tuple(figure['shape'])
            total = complexity(load_config(name.removesuffix('.py')), shape).total
            results.append(dict(figure, config=name, counted=asdict(total)))
            rows.append([name, f'{shape[0]} x {shape[1]}', *cells(total)])
    report.print_table(['config', 'size', *COSTS], rows)
    return results


def main() -> None:
    """Count, print and write."""
    args = parse_args()
    with report.quiet_tool('complexity.py'):
        if args.all and args.shape:
            raise UserError('--shape goes with a CONFIG; the results file says the sizes of --all')
        if args.all and args.memory:
            raise UserError('--memory goes with a CONFIG')
        if args.json:
            check_out(args.json, ('.json',), '--json')
        result: Any = count_all() if args.all else count_one(args.config, args.shape, args.memory)
        if args.json:
            report.write_json(args.json, result)
        for figure in result if args.all else []:
            if not figure['ours'].items() <= figure['counted'].items():
                name, ours = figure['config'], figure['ours']
                raise UserError(
                    f'results.yml is out of date: {name}: ours: {figure["counted"]}, and not {ours}'
                )


if __name__ == '__main__':
    main()
