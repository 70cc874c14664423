"""Measure throughput and peak memory of networks side by side: forward and training step.

NETWORK is a variant of this project, which stands for its ImageNet classifier (cont_m, cmt_s,
cotnet50), a model of mmpretrain's (resnet50_8xb32_in1k), a config file, or a config that mmdet,
mmseg or mmpretrain installs (mmdet::retinanet/retinanet_r50_fpn_1x_coco.py). Of a classifier the
whole network is measured, of a detector or a segmenter the backbone and the neck. Weights are
random. A training step is forward, backward and SGD with momentum; fp16 and bf16 are autocast's.

The networks run in turns, and are compared with the first: "speed" above 1 is faster than it. Times
and speeds are medians, with their quartiles: if those lie far apart, keep the machine quiet, or
raise --rounds. Peak memory includes the weights, and is measured in a process of its own for each
network. On a CPU glibc is told to keep freed memory, which makes steps faster and steadier.
"""

import argparse
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmcontnet.analysis import report
from mmcontnet.analysis.benchmark import DTYPES, MEMORY_FORMATS, STEPS, Settings, benchmark
from mmcontnet.errors import UserError
from mmcontnet.output import check_out

HEADER = 'MACs, ms an image, images/s, speed, peak memory'.split(', ')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = report.tool_parser(__doc__)
    number: Any = dict(type=report.positive_int)
    parser.add_argument('networks', nargs='+', metavar='NETWORK')
    parser.add_argument('--shape', nargs=2, default=[224, 224], metavar=('H', 'W'), **number)
    parser.add_argument('--batch-size', default=8, **number)
    parser.add_argument('--dtype', choices=list(DTYPES), default='fp32')
    formats = list(MEMORY_FORMATS)
    parser.add_argument('--memory-format', choices=formats, default='channels_last')
    parser.add_argument('--compile', action='store_true', help='use torch.compile')
    parser.add_argument(
        '--onnxruntime', action='store_true', help='measure each network in onnxruntime as well'
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: cuda if there is a GPU')
    parser.add_argument('--warmup', default=3, help='steps before the first sample', **number)
    parser.add_argument('--rounds', default=20, help='samples of each network (>= 5)', **number)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write every sample')
    return parser.parse_args()


def row(result: dict[str, Any], step: str) -> list[str]:
    """Return a network's row of the table of a step."""
    low, median, high = result[step]['milliseconds_per_image']
    slow, speed, fast = result[step]['speed']
    peak = result[step]['peak_memory_bytes']
    return [
        result['network'],
        f'{result["multiply_adds"] / 1e9:.2f} G',
        f'{median:.2f} ({low:.2f} - {high:.2f})',
        f'{1e3 / median:.1f}',
        f'{speed:.2f} ({slow:.2f} - {fast:.2f})',
        f'{peak / 2**20:.0f} MiB' if peak else '-',
    ]


def main() -> None:
    """Measure, print and write."""
    args = parse_args()
    with report.quiet_tool('benchmark.py'):
        if args.rounds < 5:
            raise UserError('--rounds must be at least 5')
        if args.json:
            check_out(args.json, ('.json',), '--json')
        options = {name: getattr(args, name) for name in Settings.__dataclass_fields__}
        device = report.check_device(args.device)
        settings = Settings(**{**options, 'shape': tuple(args.shape), 'device': device})
        results = benchmark(args.networks, settings, lambda line: print(line, file=sys.stderr))
        machine = torch.cuda.get_device_name() if device == 'cuda' else platform.machine()
        threads = torch.get_num_threads()
        print(
            f'batch {args.batch_size}, {args.shape[0]} x {args.shape[1]}, {args.dtype}, '
            f'{args.memory_format}{", compiled" if args.compile else ""}, '
            f'{device} ({machine}, {threads} threads), PyTorch {torch.__version__}'
        )
        for step in STEPS:
            print()
            rows = [row(result, step) for result in results if step in result]
            report.print_table([step, *HEADER], rows)
        if args.json:
            environment = dict(machine=machine, threads=threads, torch=torch.__version__)
            content = dict(settings=asdict(settings), environment=environment, results=results)
            report.write_json(args.json, content)


if __name__ == '__main__':
    main()
