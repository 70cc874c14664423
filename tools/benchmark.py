"""Measure throughput and peak memory of networks side by side: forward and training step.

NETWORK is an arch of this project for its ImageNet classifier, as in cont_m, cmt_s, cotnet50, a
model of mmpretrain's, as in resnet50_8xb32_in1k, a config file, a config that mmdet, mmseg or
mmpretrain installs, as in mmdet::retinanet/retinanet_r50_fpn_1x_coco.py, or timm:MODEL if timm is
installed. Of a classifier the whole network is measured, of a detector or a segmenter the backbone
and the neck. Weights are random. A training step is forward, backward and SGD with momentum; fp16
and bf16 are autocast's.

The networks take turns, and are compared with the first: "speed" above 1 is faster, "time per
multiply-add" below 1 makes better use of the machine. A ratio is printed with its 95 % confidence
interval, and not at all if that is wider than 5 % to either side. Peak memory is measured in a
process for each network, weights included.

On a CPU glibc hands big blocks back to the system at once, and page faults then cost more than the
networks differ. For all networks it is told not to, by MALLOC_MMAP_THRESHOLD_ and
MALLOC_TRIM_THRESHOLD_; to measure without, set both to other values yourself.
"""

import argparse
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

ALLOCATOR = {'MALLOC_MMAP_THRESHOLD_': str(2**32), 'MALLOC_TRIM_THRESHOLD_': str(2**36)}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('networks', nargs='+', metavar='NETWORK')
    parser.add_argument('--shape', nargs=2, type=int, default=[224, 224], metavar=('H', 'W'))
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--dtype', choices=['fp32', 'fp16', 'bf16'], default='fp32')
    parser.add_argument(
        '--memory-format', choices=['channels_last', 'contiguous'], default='channels_last'
    )
    parser.add_argument('--compile', action='store_true', help='use torch.compile')
    parser.add_argument(
        '--device', choices=['cpu', 'cuda'], help='default: cuda where there is a GPU'
    )
    parser.add_argument('--warmup', type=int, default=3, help='steps before the first sample')
    parser.add_argument('--rounds', type=int, default=20, help='samples of each network (>= 5)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write every sample')
    args = parser.parse_args()
    for option, least in (('batch_size', 1), ('warmup', 1), ('rounds', 5)):
        if getattr(args, option) < least:
            parser.error(f'--{option.replace("_", "-")} must be at least {least}')
    if min(args.shape) < 1:
        parser.error(f'--shape takes positive numbers, got {args.shape[0]} {args.shape[1]}')
    if args.json and not args.json.resolve().parent.is_dir():
        parser.error(f'--json: no folder {str(args.json.parent)!r}')
    return args


def run(args: argparse.Namespace) -> None:
    """Measure, print and write."""
    # After the allocator is settled: these imports take seconds.
    import torch
    from mmengine.logging import MMLogger

    from mmcontnet.analysis.benchmark import MAX_UNCERTAINTY, Settings, benchmark
    from mmcontnet.analysis.report import markdown_table, write_json
    from mmcontnet.errors import UserError

    MMLogger.get_current_instance().setLevel('ERROR')  # it tells of every change of scope
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if device == 'cuda' and not torch.cuda.is_available():
        sys.exit('benchmark.py: error: --device cuda needs a GPU, and PyTorch sees none')
    settings = Settings(
        shape=tuple(args.shape),
        batch_size=args.batch_size,
        dtype=args.dtype,
        memory_format=args.memory_format,
        compile=args.compile,
        device=device,
        warmup=args.warmup,
        rounds=args.rounds,
    )
    try:
        contestants = benchmark(args.networks, settings, lambda line: print(line, file=sys.stderr))
    except UserError as error:
        sys.exit(f'benchmark.py: error: {error}')

    machine = platform.machine() if device == 'cpu' else torch.cuda.get_device_name()
    threads, allocator = torch.get_num_threads(), {name: os.environ[name] for name in ALLOCATOR}
    print(
        f'batch {args.batch_size}, {args.shape[0]} x {args.shape[1]}, {args.dtype}, '
        f'{args.memory_format}{", compiled" if args.compile else ""}, {device} ({machine}, '
        f'{threads} threads), PyTorch {torch.__version__}'
        + ''.join(f', {name}={value}' for name, value in allocator.items() if device == 'cpu')
    )
    results = [dict(network=c.name, **asdict(c.cost)) for c in contestants]
    first = contestants[0]
    for step in first.steps:
        rows = []
        for contestant, result in zip(contestants, results, strict=True):
            measured = contestant.steps[step]
            low, median, high = (seconds / args.batch_size * 1e3 for seconds in measured.quartiles)
            ratio = measured.speed_ratio(first.steps[step])
            per_multiply_add = contestant.time_per_multiply_add(first, step)
            peak = measured.peak_memory
            rows.append(
                [
                    contestant.name,
                    f'{contestant.cost.multiply_adds / 1e9:.2f} G',
                    f'{median:.2f}',
                    f'{low:.2f} - {high:.2f}',
                    f'{1e3 / median:.1f}',
                    f'{ratio.median:.2f} ± {ratio.uncertainty:.2f}' if ratio.meaningful else '?',
                    f'{per_multiply_add:.2f}' if ratio.meaningful else '?',
                    '-' if peak is None else f'{peak / 2**20:.0f} MiB',
                ]
            )
            result[step] = dict(
                seconds=measured.times,
                images_per_second=1e3 / median,
                speed_ratio=asdict(ratio) if ratio.meaningful else None,
                time_per_multiply_add_ratio=per_multiply_add if ratio.meaningful else None,
                peak_memory_bytes=peak,
            )
        header = [step, 'multiply-adds', 'ms an image', 'quartiles', 'images/s', 'speed']
        print('\n' + markdown_table([*header, 'time per multiply-add', 'peak memory'], rows))
        if any('?' in row for row in rows):
            print(
                f'?: no ratio, its 95 % interval is wider than {MAX_UNCERTAINTY:.0%} to either '
                'side; keep the machine quiet, or raise --rounds'
            )
    if args.json:
        environment = dict(
            machine=machine, threads=threads, torch=torch.__version__, allocator=allocator
        )
        content = dict(settings=asdict(settings), environment=environment, results=results)
        try:
            write_json(args.json, content)
        except OSError as error:
            sys.exit(f'benchmark.py: error: {error}')


def main() -> None:
    """Start again with the allocator's settings, which are read when a process starts."""
    args = parse_args()
    if not os.environ.keys() >= ALLOCATOR.keys():
        os.execve(sys.executable, sys.orig_argv, {**ALLOCATOR, **os.environ})
    run(args)


if __name__ == '__main__':
    main()
