"""Report what only a GPU shows, in one call of a few minutes: FILE.json, and FILE.md for people.

Parts: the tests marked `gpu`, which take at most a third of the time; throughput and peak memory of
detectors' backbones and necks at 800 x 1280, and of every classifier at 224 x 224, eager and (one
of each family) compiled, beside ResNet-50 and Swin-T; the bandwidth of local aggregation; which
kernels attention runs. Weights are random. A part that fails is reported with its error, and the
others go on; what does not fit into the time is left out, and named.

Convolutions in fp32 use TF32, which is PyTorch's default. A training step is forward, backward and
SGD with momentum under autocast. On a CPU (--device cpu) the same code runs with small batches, to
see that it works.
"""

from __future__ import annotations

import argparse
import gc
import platform
import re
import subprocess
import sys
import time
import traceback
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mmcontnet.analysis import report
from mmcontnet.analysis.benchmark import STEPS, Settings, Stepper
from mmcontnet.analysis.networks import build_network
from mmcontnet.analysis.results import read_figures
from mmcontnet.ops.local_aggregation import local_aggregation
from mmcontnet.output import check_out

ROOT = Path(__file__).resolve().parents[1]
RESNET, SWIN = 'resnet50_8xb32_in1k', 'swin-tiny_16xb64_in1k'
COMPILED = ['cont_m', 'cmt_s', 'cotnet50', 'resnet_acmix26', 'swin_acmix_t', 'pvt_acmix_t']
DETECTORS = [
    'retinanet_r50_fpn_1x_1344x784_coco.py',
    'retinanet_cont_m_fpn_1x_coco.py',
    'retinanet_cmt_s_fpn_1x_coco.py',
    'faster_rcnn_cotnet50_fpn_1x_coco.py',
    'retinanet_pvt_acmix_t_fpn_1x_coco.py',
]
#: Channels and side of the maps that CoTNet-50 aggregates at 224 x 224.
AGGREGATED = ((64, 56), (128, 28), (256, 14), (512, 7))

Rows = Iterator[dict[str, Any]]


def classifiers() -> list[str]:
    """Return our variants by the name of their ImageNet config, each network once."""
    names = (
        re.fullmatch(r'(.*)_8xb\d+_in1k.py', name)
        for name, entry in read_figures().items()
        if 'same_network_as' not in entry
    )
    return [match[1] for match in names if match]


def measure(name: str, settings: Settings) -> Rows:
    """Measure both steps of a network in each dtype: seconds a step, bytes at the peak."""
    network = build_network(name)
    for dtype in ('bf16',) if settings.compile else ('bf16', 'fp32'):
        row: dict[str, Any] = dict(network=Path(name).stem, dtype=dtype, compiled=settings.compile)
        try:
            row |= measure_steps(Stepper(network, replace(settings, dtype=dtype)), settings.device)
        except torch.OutOfMemoryError as error:
            row['error'] = str(error).partition('\n')[0]
        gc.collect()
        yield row


def measure_steps(stepper: Stepper, device: str) -> dict[str, Any]:
    """Time the steps of a network that is ready to run."""
    row: dict[str, Any] = {}
    for step in STEPS:
        took = [stepper.time(step) for _ in range(3)][-1]
        if device == 'cuda':
            torch.cuda.reset_peak_memory_stats()
        samples = sorted(stepper.time(step, max(1, round(0.1 / took))) for _ in range(5))
        row[step] = dict(seconds=samples[2], spread=samples[-1] / samples[0])
        if device == 'cuda':
            row[step]['peak_memory_bytes'] = torch.cuda.max_memory_allocated()
    return row


def aggregation_bandwidth(channels: int, side: int, dtype: torch.dtype) -> Rows:
    """Compare the aggregation of 256 maps with a device copy of as many bytes.

    As if each element were read or written once: value, weight and output; going back also the
    gradients of all three. What it takes to start the op is included.
    """
    from triton.testing import do_bench

    shape = (256, channels, side, side)
    value = torch.randn(shape, device='cuda', dtype=dtype)
    value = value.contiguous(memory_format=torch.channels_last).requires_grad_()
    # As GroupNorm gives it.
    weight = torch.randn(256, 9 * channels // 8, side, side, device='cuda', dtype=dtype)
    weight.requires_grad_()
    out = local_aggregation(value, weight)
    grad = torch.randn_like(out)
    forward = 2 * value.numel() + weight.numel()
    steps: list[tuple[str, Callable[[], object], int]] = [
        ('forward', lambda: local_aggregation(value.detach(), weight.detach()), forward),
        (
            'backward',
            lambda: torch.autograd.grad(out, (value, weight), grad, retain_graph=True),
            forward + value.numel() + weight.numel(),
        ),
    ]
    for step, run, elements in steps:
        source = torch.empty(elements // 2, device='cuda', dtype=dtype)
        target = torch.empty_like(source)
        milliseconds = do_bench(run, return_mode='median')
        copy = do_bench(lambda a=source, b=target: b.copy_(a), return_mode='median')
        yield dict(
            step=step,
            map=f'{channels} x {side} x {side}',
            dtype=str(dtype),
            gigabytes_per_second=round(elements * value.itemsize / milliseconds / 1e6),
            share_of_a_copy=round(copy / milliseconds, 2),
        )


def attention_kernels(name: str, device: str) -> Rows:
    """Tell which implementation attention takes in training, by the shape of its queries."""
    images = torch.randn(2, 3, 224, 224, device=device)
    network = build_network(name).to(device)
    for dtype in (torch.bfloat16, torch.float32):
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as events:
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                network(images)
        for event in events.key_averages(group_by_input_shape=True):
            match = re.fullmatch('aten::_scaled_dot_product_(.*)', event.key)
            if match and not match[1].startswith('fused'):
                shape = event.input_shapes[0]
                yield dict(
                    network=name,
                    dtype=str(dtype),
                    kernel=match[1],
                    queries=shape,
                    calls=event.count,
                )


def run_tests(timeout: float) -> Rows:
    """Run the tests marked ``gpu``."""
    with TemporaryDirectory() as folder:
        found = Path(folder, 'tests.xml')
        command = [sys.executable, '-m', 'pytest', '-q', '-m', 'gpu', f'--junitxml={found}']
        try:
            run = subprocess.run(command, cwd=ROOT, timeout=timeout, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            yield dict(error=f'pytest took longer than {timeout:.0f} s')
            return
        if not found.exists():
            yield dict(error=' / '.join((run.stdout + run.stderr).splitlines()[-3:]))
            return
        for case in ET.parse(found).iter('testcase'):
            bad = case.find('failure') if case.find('error') is None else case.find('error')
            outcome = 'skipped' if case.find('skipped') is not None else 'passed'
            yield dict(
                test=f'{case.get("classname")}::{case.get("name")}',
                outcome=outcome if bad is None else 'failed',
                message='' if bad is None else (bad.get('message') or '').partition('\n')[0],
            )


def throughput_table(rows: list[dict[str, Any]], batch: int) -> str:
    """Lay out rows of :func:`measure`; speeds are relative to the first network of the dtype."""
    first: dict[str, dict[str, Any]] = {}
    cells = []
    for row in rows:
        line = [f'{row["network"]} {row["dtype"]}{" compiled" if row["compiled"] else ""}']
        for step in STEPS:
            if step not in row:
                line += [row.get('error', ''), '-', '-']
                continue
            base = first.setdefault(row['dtype'], row)
            peak = row[step].get('peak_memory_bytes', 0) / 2**30
            line += [
                f'{batch / row[step]["seconds"]:.0f}',
                f'{base[step]["seconds"] / row[step]["seconds"]:.2f}',
                f'{peak:.1f} GiB',
            ]
        cells.append(line)
    return report.markdown_table(
        ['network', *(f'{s} {w}' for s in STEPS for w in ('images/s', 'speed', 'memory'))], cells
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out rows as they are."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return report.markdown_table(
        columns, [[str(row.get(column, '')) for column in columns] for row in rows]
    )


def main() -> None:
    """Run all parts and write both files."""
    parser = report.tool_parser(__doc__)
    parser.add_argument('--out', type=Path, default=Path('gpu_report.json'), metavar='FILE.json')
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: cuda if there is a GPU')
    parser.add_argument('--minutes', type=float, default=9.0, help='of all parts together')
    names = ('tests', 'detectors', 'aggregation', 'attention', 'classifiers', 'compiled')
    parser.add_argument('--parts', nargs='+', choices=names, default=names)
    args = parser.parse_args()
    with report.quiet_tool('gpu_report.py'):
        check_out(args.out, ('.json',))
        write(args, report.check_device(args.device))


def write(args: argparse.Namespace, device: str) -> None:
    """Run the parts in turn, and write what there is after each of their tasks."""
    end = time.monotonic() + 60 * args.minutes
    small = device == 'cpu'
    at_224 = Settings((64, 64) if small else (224, 224), 2 if small else 128, device=device)
    at_800 = Settings((128, 160) if small else (800, 1280), 2, device=device)
    peers = [RESNET, SWIN]
    # One of each family first, should the time run out.
    ours = COMPILED + [name for name in classifiers() if name not in COMPILED]
    configs = [str(ROOT / 'configs' / name) for name in DETECTORS]
    # By part: its tasks, each of which gives rows, and how they are shown.
    parts: dict[str, tuple[list[Callable[[], Rows]], Callable[[list], str]]] = {
        'detectors': (
            [lambda n=n: measure(n, at_800) for n in configs],
            lambda rows: throughput_table(rows, at_800.batch_size),
        ),
        'classifiers': (
            [lambda n=n: measure(n, at_224) for n in peers + ours],
            lambda rows: throughput_table(rows, at_224.batch_size),
        ),
        'compiled': (
            [lambda n=n: measure(n, replace(at_224, compile=True)) for n in peers + COMPILED],
            lambda rows: throughput_table(rows, at_224.batch_size),
        ),
        'aggregation': (
            [
                lambda c=c, s=s, d=d: aggregation_bandwidth(c, s, d)
                for d in (torch.bfloat16, torch.float32)
                for c, s in AGGREGATED
            ],
            table,
        ),
        'attention': (
            [lambda n=n: attention_kernels(n, device) for n in COMPILED],
            table,
        ),
        'tests': ([lambda: run_tests(20 * args.minutes)], table),
    }
    machine = platform.machine() if small else torch.cuda.get_device_name()
    content: dict[str, Any] = dict(machine=machine, torch=torch.__version__, parts={})
    for part in args.parts:
        tasks = parts[part][0]
        rows: list[dict[str, Any]] = []
        failures: list[str] = []
        content['parts'][part] = dict(rows=rows, failures=failures)
        for number, task in enumerate(tasks):
            if time.monotonic() > end:
                failures.append(f'{len(tasks) - number} of {len(tasks)} left out: no time')
                break
            try:
                for row in task():
                    rows.append(row)
            except Exception as error:  # the other tasks go on
                print(traceback.format_exc(), file=sys.stderr)
                failures.append(f'{number + 1}: {type(error).__name__}: {error}'.partition('\n')[0])
            if device == 'cuda':
                torch.cuda.empty_cache()
            report.write_json(args.out, content)
        print(f'{part}: {len(rows)} rows, {len(failures)} failures', flush=True)
    with report.replacing(args.out.with_suffix('.md')) as partial:
        pages = [f'# What a GPU shows\n\n{machine}, PyTorch {torch.__version__}.']
        for part, found in content['parts'].items():
            shown = parts[part][1](found['rows']) if found['rows'] else 'nothing'
            pages.append(f'## {part}\n\n' + '\n\n'.join([*found['failures'], shown]))
        partial.write_text('\n\n'.join(pages) + '\n')


if __name__ == '__main__':
    main()
