"""Train networks with several seeds, and compare their scores.

Each config is trained once a seed by tools/train.py, in OUT/CONFIG/SEED. Options may follow it:
CONFIG@KEY=VALUE@KEY=VALUE is another network, with these options changed. Finished trainings are
not repeated and interrupted ones are resumed, so the same command, also with more networks or
seeds, completes a study. OUT/study.json and OUT/study.md have the last score of each run, their
mean and standard deviation, and the difference between each pair of networks: its mean over the
seeds, and the standard error of that mean.

    python tools/study.py configs/studies/*_fashion_mnist.py --out work_dirs/study --shape 64 64
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmcontnet.analysis import report
from mmcontnet.analysis.complexity import Cost, complexity, default_shape
from mmcontnet.engine import load_config
from mmcontnet.engine.config import ConfigOptions
from mmcontnet.errors import UserError
from mmcontnet.output import check_out

TRAIN = Path(__file__).with_name('train.py')


class Network(NamedTuple):
    """A config, and options that change it, each ``KEY=VALUE``."""

    config: str
    options: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Network:
        """Read ``CONFIG@KEY=VALUE@KEY=VALUE``."""
        config, *options = text.split('@')
        return cls(config, tuple(options))

    @property
    def name(self) -> str:
        """Name for the tables, and for a folder."""
        changes = (
            f'@{option.partition("=")[0].split(".")[-1]}={option.partition("=")[2]}'
            for option in self.options
        )
        return Path(self.config).stem + re.sub(r'[^\w@=.,()-]', '_', ''.join(changes))

    def load(self, options: Sequence[str]) -> Config:
        """Read the config, with options for all networks before its own.

        Raises:
            UserError: If that fails, or an option does not fit into it.
        """
        parser = argparse.ArgumentParser()
        parser.add_argument('--cfg-options', nargs='*', action=ConfigOptions)
        args = parser.parse_args(['--cfg-options', *options, *self.options])
        return load_config(self.config, args.cfg_options)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = report.tool_parser(__doc__)
    parser.add_argument('networks', nargs='+', type=Network.parse, metavar='CONFIG[@KEY=VALUE...]')
    parser.add_argument('--out', type=Path, required=True, help='folder of the runs and tables')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N')
    parser.add_argument('--metric', default='accuracy/top1', help='default: %(default)s')
    parser.add_argument(
        '--jobs', type=report.positive_int, default=1, metavar='N', help='trainings at a time'
    )
    size: Any = dict(nargs=2, type=report.positive_int, metavar=('H', 'W'))
    parser.add_argument('--shape', help='image size, in pixels, to count MACs at', **size)
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for all configs'
    )
    return parser.parse_args()


def train(network: Network, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one network with one seed, unless that was done; return its score and seconds.

    Raises:
        UserError: If it failed, or was trained before with other options.
    """
    folder = args.out / network.name / str(seed)
    result, log = folder / 'result.json', folder / 'log.txt'
    options = [*args.cfg_options, *network.options]
    if result.exists():
        found = json.loads(result.read_text())
        if found['options'] != options:
            raise UserError(f'{folder} was trained with --cfg-options {" ".join(found["options"])}')
        return found
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(TRAIN), network.config, '--work-dir', str(folder), '--resume']
    command += ['--cfg-options', f'randomness.seed={seed}', *options]
    start = time.monotonic()
    with open(log, 'w') as output:
        code = subprocess.run(command, stdout=output, stderr=output).returncode
    if code:
        last = [line for line in log.read_text().splitlines() if line.strip()][-1:]
        raise UserError(f'{network.name} with seed {seed} failed, see {log}: {"".join(last)}')
    found = dict(
        score=last_score(folder, args.metric),
        seconds=round(time.monotonic() - start),
        options=options,
    )
    report.write_json(result, found)
    print(f'{network.name}, seed {seed}: {found["score"]:.2f} in {found["seconds"]} s', flush=True)
    return found


def last_score(folder: Path, metric: str) -> float:
    """Read the last value of a metric from the logs of a work dir.

    Raises:
        UserError: If there is none.
    """
    names: set[str] = set()
    for path in sorted(folder.glob('*/vis_data/scalars.json'), reverse=True):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if scores := [line[metric] for line in lines if metric in line]:
            return scores[-1]
        names.update(*lines)
    there = ', '.join(sorted(name for name in names if '/' in name)) or 'nothing'
    raise UserError(f'--metric {metric}: {folder} has scores of {there}')


def compare(scores: dict[str, dict[int, float]]) -> dict[str, dict[str, list[float]]]:
    """Subtract the scores of each two networks, seed by seed: mean and its standard error."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in scores}
    for first, second in itertools.permutations(scores, 2):
        seeds = scores[first].keys() & scores[second].keys()
        gaps = [scores[first][seed] - scores[second][seed] for seed in seeds]
        if len(gaps) > 1:
            error = statistics.stdev(gaps) / len(gaps) ** 0.5
            found[first][second] = [round(statistics.mean(gaps), 4), round(error, 4)]
    return found


@cache
def cost_of(network: Network, options: tuple[str, ...], shape: tuple[int, ...] | None) -> Cost:
    """Count parameters and MACs of a network."""
    cfg = network.load(options)
    return complexity(cfg, shape or default_shape(cfg)).total


def write(args: argparse.Namespace, runs: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Write both files from what there is, and return what is in the one for people."""
    scores = {name: {s: run['score'] for s, run in some.items()} for name, some in runs.items()}
    gaps, networks = compare(scores), []
    for network in (network for network in args.networks if runs.get(network.name)):
        values = list(scores[network.name].values())
        shape = tuple(args.shape) if args.shape else None
        cost = cost_of(network, tuple(args.cfg_options), shape)
        networks.append(
            dict(
                network=network.name,
                parameters=cost.parameters,
                macs=cost.multiply_adds,
                mean=statistics.mean(values),
                deviation=statistics.stdev(values) if len(values) > 1 else None,
                runs=runs[network.name],
                differences=gaps[network.name],
            )
        )
    content = dict(metric=args.metric, options=args.cfg_options, networks=networks)
    report.write_json(args.out / 'study.json', content)
    table = report.markdown_table(
        ['network', 'parameters', 'MACs', args.metric, 'deviation', 'seeds', 'seconds a run'],
        [
            [
                n['network'],
                f'{n["parameters"] / 1e6:.2f} M',
                f'{n["macs"] / 1e6:.0f} M',
                f'{n["mean"]:.2f}',
                '-' if n['deviation'] is None else f'{n["deviation"]:.2f}',
                str(len(n['runs'])),
                f'{statistics.mean(run["seconds"] for run in n["runs"].values()):.0f}',
            ]
            for n in networks
        ],
    )
    names = [n['network'] for n in networks]
    differences = report.markdown_table(
        ['row - column', *names],
        [
            [
                row,
                *(
                    '' if c not in gaps[row] else '{:+.2f} ± {:.2f}'.format(*gaps[row][c])
                    for c in names
                ),
            ]
            for row in names
        ],
    )
    text = f'{table}\n\n{differences}\n'
    with report.replacing(args.out / 'study.md') as partial:
        partial.write_text(text)
    return text


def main() -> None:
    """Train what is missing, and write the tables after each run."""
    args = parse_args()
    with report.quiet_tool('study.py'):
        check_out(args.out)
        for network in args.networks:  # before hours of work
            network.load(args.cfg_options)
            if [other.name for other in args.networks].count(network.name) > 1:
                raise UserError(
                    f'two networks are called {network.name}, as their folders would be'
                )
        runs: dict[str, dict[int, dict[str, Any]]] = {n.name: {} for n in args.networks}
        failed, tables = [], ''
        # Seed by seed: a study that is stopped has all networks.
        tasks = [(network, seed) for seed in args.seeds for network in args.networks]
        with ThreadPoolExecutor(args.jobs) as pool:
            results = [(task, pool.submit(train, *task, args)) for task in tasks]
            for (network, seed), result in results:
                try:
                    runs[network.name][seed] = result.result()
                    tables = write(args, runs)
                except UserError as error:
                    failed.append(str(error))
                    print(f'study.py: {error}', file=sys.stderr)
        if tables:
            print(tables)
        if failed:
            raise UserError(f'{len(failed)} of {len(tasks)} trainings failed, see above')


if __name__ == '__main__':
    main()
