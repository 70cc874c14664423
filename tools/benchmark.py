"""Measure throughput and peak memory of networks side by side: forward and training step.

NETWORK is a variant of this project, which stands for its ImageNet classifier (cont_m, cmt_s,
cotnet50), a model of mmpretrain's (resnet50_8xb32_in1k), a config file, a config that mmdet, mmseg
or mmpretrain installs (mmdet::retinanet/retinanet_r50_fpn_1x_coco.py), or timm:MODEL if timm is
installed. Of a classifier the whole network is measured, of a detector or a segmenter the backbone
and the neck. Weights are random. A training step is forward, backward and SGD with momentum; fp16
and bf16 are autocast's.

The networks run in turns, and are compared with the first: "speed" above 1 is faster than it,
"time per MAC" below 1 spends less time on a MAC. A ratio is printed with its 95 % confidence
interval, and left out if that is wider than 5 % to either side. Peak memory includes the weights,
and is measured in a process of its own for each network.

On a CPU glibc hands big blocks back to the system at once, and page faults then cost more than the
networks differ. So this tool sets MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ high enough
that glibc keeps the memory. Values that you set for both are used instead.
"""

# ruff: noqa: E402
import os
import sys

ALLOCATOR = {'MALLOC_MMAP_THRESHOLD_': str(2**32), 'MALLOC_TRIM_THRESHOLD_': str(2**36)}
if __name__ == '__main__' and not os.environ.keys() >= ALLOCATOR.keys():
    # They are read when a process starts. Before the imports, which take seconds.
    os.execve(sys.executable, sys.orig_argv, {**ALLOCATOR, **os.environ})

import argparse
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmcontnet.analysis import report
from mmcontnet.analysis.benchmark import (
    DTYPES,
    MAX_UNCERTAINTY,
    MEMORY_FORMATS,
    STEPS,
    Result,
    Settings,
    benchmark,
)
from mmcontnet.errors import UserError

HEADER = 'MACs, ms an image, quartiles, images/s, speed, time per MAC, peak memory'.split(', ')


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
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: cuda if there is a GPU')
    parser.add_argument('--warmup', default=3, help='steps before the first sample', **number)
    parser.add_argument('--rounds', default=20, help='samples of each network (>= 5)', **number)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write every sample')
    return parser.parse_args()


def describe(result: Result, first: Result, step: str, batch_size: int) -> tuple[list[str], dict]:
    """Return a row of the table of a step, and the same for programs."""
    low, median, high = (seconds / batch_size * 1e3 for seconds in result.quartiles(step))
    ratio, peak = result.speed_ratio(first, step), result.peak_memory.get(step)
    work = result.cost.multiply_adds / first.cost.multiply_adds
    per_mac = 1 / (ratio.median * work) if ratio else None
    row = [
        result.name,
        f'{result.cost.multiply_adds / 1e9:.2f} G',
        f'{median:.2f}',
        f'{low:.2f} - {high:.2f}',
        f'{1e3 / median:.1f}',
        f'{ratio.median:.2f} ± {ratio.uncertainty:.2f}' if ratio else '?',
        f'{per_mac:.2f}' if per_mac else '?',
        f'{peak / 2**20:.0f} MiB' if peak else '-',
    ]
    return row, dict(
        seconds=result.times[step],
        images_per_second=1e3 / median,
        speed_ratio=asdict(ratio) if ratio else None,
        time_per_multiply_add_ratio=per_mac,
        peak_memory_bytes=peak,
    )


def show(results: Sequence[Result], settings: Settings) -> dict[str, Any]:
    """Print a table a step; return what stands in them for programs."""
    on_cpu = settings.device == 'cpu'
    machine = platform.machine() if on_cpu else torch.cuda.get_device_name()
    threads, allocator = torch.get_num_threads(), {name: os.environ[name] for name in ALLOCATOR}
    print(
        f'batch {settings.batch_size}, {settings.shape[0]} x {settings.shape[1]}, '
        f'{settings.dtype}, {settings.memory_format}{", compiled" if settings.compile else ""}, '
        f'{settings.device} ({machine}, {threads} threads), PyTorch {torch.__version__}'
        + ''.join(f', {name}={value}' for name, value in allocator.items() if on_cpu)
    )
    content: list[dict] = [dict(network=r.name, **asdict(r.cost)) for r in results]
    for step in STEPS:
        rows = []
        for result, entry in zip(results, content, strict=True):
            row, entry[step] = describe(result, results[0], step, settings.batch_size)
            rows.append(row)
        print('\n' + report.markdown_table([step, *HEADER], rows))
        if any('?' in row for row in rows):
            print(
                f'?: no ratio, its 95 % interval is wider than {MAX_UNCERTAINTY:.0%} to either '
                'side; keep the machine quiet, or raise --rounds'
            )
    environment = dict(
        machine=machine, threads=threads, torch=torch.__version__, allocator=allocator
    )
    return dict(settings=asdict(settings), environment=environment, results=content)


def main() -> None:
    """Measure, print and write."""
    args = parse_args()
    with report.quiet_tool('benchmark.py'):
        if args.rounds < 5:
            raise UserError('--rounds must be at least 5')
        if args.json:
            report.check_out(args.json, ('.json',), '--json')
        options = {name: getattr(args, name) for name in Settings.__dataclass_fields__}
        options.update(shape=tuple(args.shape), device=report.check_device(args.device))
        settings = Settings(**options)
        results = benchmark(args.networks, settings, lambda line: print(line, file=sys.stderr))
        content = show(results, settings)
        if args.json:
            report.write_json(args.json, content)


if __name__ == '__main__':
    main()
