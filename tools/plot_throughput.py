"""Plot the accuracy in the papers against the throughput measured on this machine.

With --measure the classifiers of all variants, ResNet-50 and Swin-T run in turns, each at the image
size of its accuracy, and docs/throughput.json is written first. What counts is the CPU time of one
thread, which other processes on the machine disturb little. tools/make_tables.py puts the speeds
into README.md.
"""

import argparse
import json
import statistics
from pathlib import Path
from time import process_time
from typing import Any

import matplotlib.pyplot as plt
import torch

from mmcontnet.analysis.benchmark import Settings, Stepper, keep_freed_memory
from mmcontnet.analysis.networks import build_network
from mmcontnet.analysis.results import read_results

DOCS = Path(__file__).resolve().parents[1] / 'docs'
DATA, PICTURE = DOCS / 'throughput.json', DOCS / 'throughput.jpg'
FIRST = 'ResNet-50'


def variants() -> list[dict[str, Any]]:
    """Return name, config, image size and the best accuracy in the paper of every network."""
    networks = [
        dict(name=e['name'], family='others', network=name, shape=e['shape'], top1=e['top-1'])
        for name, e in read_results()['references'].items()
    ]
    for content in read_results()['families'].values():
        for word, backbone in content['backbones'].items():
            best: dict[str, Any] = {}
            for config, entry in content['configs'].items():
                same = content['configs'].get(entry.get('same_network_as'), {})
                top1 = entry.get('paper', {}).get('top-1', 0)
                own = config.startswith(f'{word}_') and config.endswith('in1k.py')
                if own and '_320_' not in config and top1 > best.get('top1', 0):
                    shape = entry.get('shape') or same['shape']
                    best = dict(name=backbone['name'], shape=shape, top1=top1)
            if best:
                networks.append(best | dict(family=backbone['type'], network=word))
    return networks


def measure(batch_size: int, rounds: int) -> dict[str, Any]:
    """Take the CPU time of all networks in turns, forward in fp32."""
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    networks = variants()
    steppers = []
    for entry in networks:
        settings = Settings(shape=tuple(entry['shape']), batch_size=batch_size)
        steppers.append(Stepper(build_network(entry['network']), settings))
        steppers[-1].forward()  # warms up
    samples: list[list[float]] = [[] for _ in steppers]
    turns = list(zip(steppers, samples, strict=True))
    for i in range(rounds):
        print(f'round {i + 1} of {rounds}', flush=True)
        for stepper, sample in turns if i % 2 == 0 else reversed(turns):
            start = process_time()
            stepper.forward()
            sample.append(process_time() - start)
    for entry, sample in zip(networks, samples, strict=True):
        ratios = [first / own for first, own in zip(samples[0], sample, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4, method='inclusive')
        entry['speed'] = round(median, 3)
        entry['quartiles'] = [round(low, 3), round(high, 3)]
        entry['milliseconds_per_image'] = round(1e3 * statistics.median(sample) / batch_size, 1)
    how = dict(
        step='forward, fp32, channels-last',
        batch_size=batch_size,
        rounds=rounds,
        time='CPU time of one thread',
        torch=torch.__version__,
        speed=f'median of the ratios to {FIRST} at 224 x 224 in the same round',
    )
    return dict(settings=how, networks=networks)


def plot(content: dict[str, Any]) -> None:
    """Draw accuracy over speed, a line for each series of variants."""
    figure, axes = plt.subplots(figsize=(9, 5.5), layout='constrained')
    series: dict[str, list[dict[str, Any]]] = {}
    for entry in content['networks']:
        word = entry['name'] if entry['family'] == 'others' else entry['name'].rpartition('-')[0]
        series.setdefault(word, []).append(entry)
    colors = plt.get_cmap('tab10').colors
    for i, (word, entries) in enumerate(series.items()):
        others = entries[0]['family'] == 'others'
        x, y = [e['speed'] for e in entries], [e['top1'] for e in entries]
        color = 'black' if others else colors[i % len(colors)]
        style = (
            dict(marker='*', markersize=13, zorder=3) if others else dict(marker='o', label=word)
        )
        axes.plot(x, y, color=color, **style)
        for entry in entries:
            label = entry['name'] if others else entry['name'].rpartition('-')[2]
            place = (entry['speed'], entry['top1'])
            axes.annotate(label, place, (6, 4), textcoords='offset points', fontsize=8, color=color)
    axes.set_xscale('log')
    ticks = [0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3]
    axes.set_xticks(ticks, [f'{tick}x' for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f'throughput on a CPU, relative to {FIRST} (measured here)')
    axes.set_ylabel("ImageNet top-1, % (the papers'; ResNet-50 and Swin-T: mmpretrain's)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc='lower left')
    figure.savefig(PICTURE, dpi=110, pil_kwargs=dict(quality=85))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--measure', action='store_true', help='run the networks (5 minutes)')
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--rounds', type=int, default=7)
    args = parser.parse_args()
    if args.measure:
        content = measure(args.batch_size, args.rounds)
        DATA.write_text(json.dumps(content, indent=1) + '\n')
        print(f'wrote {DATA}')
    plot(json.loads(DATA.read_text()))
    print(f'wrote {PICTURE}')


if __name__ == '__main__':
    main()
