"""Write every table and metafile that says what a network costs and what its paper reports.

The numbers come from mmcontnet/analysis/results.yml, speeds in the README's table from
docs/throughput.json (tools/plot_throughput.py) and docs/gpu.md. In README.md, docs/ and
configs/README.md the text between `<!-- begin generated: NAME -->` and `<!-- end generated -->` is
replaced; configs/metafiles/*.yml are written as a whole. With --check nothing is written, and there
is one line for each file that is not current.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = 'mmcontnet/analysis/results.yml'
UNITS = {'parameters': 'M', 'multiply_adds': 'G'}
# What OpenMMLab's metafiles call the task and the metric.
METRICS = {
    'top-1': ('Image Classification', 'Top 1 Accuracy'),
    'box AP': ('Object Detection', 'box AP'),
    'mask AP': ('Instance Segmentation', 'mask AP'),
    'mIoU': ('Semantic Segmentation', 'mIoU'),
}
METAFILE = f"""\
# Written by tools/make_tables.py from {RESULTS}. Results are the paper's: no weights
# trained here are published; tools/convert_checkpoint.py converts those of the authors. FLOPs are
# MACs, as in mmpretrain's metafiles, at the input size.
"""

Entry = dict[str, Any]
Columns = dict[str, Callable[[Entry], str]]


def read() -> tuple[dict[str, Entry], list[Entry], list[Entry]]:
    """Read families, their configs with what the configs' names say, and the references."""
    # Numbers stay strings: a paper's 43.50 keeps its last digit.
    results = yaml.load((ROOT / RESULTS).read_text(), yaml.BaseLoader)
    families, names = results['families'], results['names']
    names['backbones'] = {k: v for f in families.values() for k, v in f['backbones'].items()}
    words = {key: '|'.join(sorted(table, key=len, reverse=True)) for key, table in names.items()}
    grammar = re.compile(  # as configs/README.md explains it
        '(?:(?P<methods>{methods})_)?(?P<backbones>{backbones})(?:_(?P<trainings>{trainings}))?'
        r'(?:_fpn)?(?:_\d+xb\d+)?(?:_(?P<number>\d+)(?P<schedules>{schedules}))?(?:_\d+x\d+)?'
        r'_(?P<data>{data})\.py'.format(**words)
    )
    configs: dict[str, Entry] = {}
    for family, content in families.items():
        for name, entry in content['configs'].items():
            match = grammar.fullmatch(name)
            if match is None:
                sys.exit(f'make_tables.py: error: {name} is no name as configs/README.md explains')
            same = configs.get(entry.get('same_network_as'), {})
            printed = {k: v for k, v in same.get('paper', {}).items() if k in UNITS}
            meaning = {key: names[key][word] for key in names if (word := match[key])}
            configs[name] = {
                **{key: same[key] for key in ('shape', 'ours', 'memory') if key in same},
                **entry,
                'paper': {**printed, **entry.get('paper', {})},
                'name': name,
                'family': family,
                'backbone': meaning['backbones'],
                'method': meaning.get('methods', '-'),
                'order': [*names['methods'], None].index(match['methods']),
                'training': meaning.get('trainings', '-'),
                'schedule': (match['number'] or '') + meaning.get('schedules', ''),
                'data': meaning['data'],
            }
        for row in (row for rows in content.get('tables', {}).values() for row in rows):
            # Without an option the network is the config's own.
            row.setdefault('ours', configs.get(row.get('config'), {}).get('ours'))
    return families, list(configs.values()), list(results['references'].values())


def count(entry: Entry, key: str, minus: str = '', paper: bool = True) -> str:
    """Our count in three digits, and behind it the paper's."""
    ours = entry.get('ours')
    if not ours:
        return '-'
    number = (int(ours[key]) - int(ours.get(minus, 0))) / {'M': 1e6, 'G': 1e9}[UNITS[key]]
    text = f'{number:.{max(0, 3 - len(str(int(number))))}f}{UNITS[key]}'
    printed = entry['paper'].get(key, '').replace(' ', '') if paper else ''
    return f'{text} ({printed})' if printed else text


def how(row: Entry) -> str:
    """How to run a row of a paper's table."""
    if 'example' in row:
        return f'`{row["example"]}`, below'
    if 'options' in row:
        return f'`{shlex.join(row["options"].split())}`'
    return f'`{row["config"]}`' if '::' in row.get('config', '') else 'default'


def paper(key: str) -> Callable[[Entry], str]:
    return lambda entry: entry['paper'].get(key, '-')


def memory(entry: Entry, text: str) -> str:
    try:
        return text.format(**entry.get('memory', {}))
    except KeyError:  # not of classifiers, nor of baselines with_cp
        return '-'


def backbone(key: str) -> Callable[[Entry], str]:
    return lambda entry: entry['backbone'][key]


# A table leaves out columns that are empty, and these where they say the same in every row. Configs
# come last: their links are long.
SIZE = 'height x width'
CONSTANT = ('data', SIZE)
PAPER = ' (paper)'  # left out of a title where no cell has a number of the paper
PARAMETERS: Columns = {f'params{PAPER}': lambda e: count(e, 'parameters')}
COUNTS: Columns = PARAMETERS | {f'MACs{PAPER}': lambda e: count(e, 'multiply_adds')}
WITHOUT_ATTENTION: Columns = PARAMETERS | {
    'MACs': lambda e: count(e, 'multiply_adds', paper=False),
    f'w/o attention{PAPER}': lambda e: count(e, 'multiply_adds', 'attention'),
}
RESULTS_IN_PAPER: Columns = {key: paper(key) for key in (*METRICS, 'without EMA')}
MEMORY: Columns = {
    'GPU memory': lambda e: memory(e, '{fp32} / {half} GiB'),
    'with_cp': lambda e: memory(e, '{fp32_with_cp} / {half_with_cp} GiB'),
}
SOURCE: Columns = {'source': paper('source')}
NETWORK: Columns = {
    'method': lambda e: e['method'],
    'backbone': backbone('name'),
    'data': lambda e: e['data'],
    'training': lambda e: e['training'],
    'schedule': lambda e: e['schedule'] or '-',
    SIZE: lambda e: ' x '.join(e.get('shape', '-')),
}
ARCH: Columns = {
    'backbone': backbone('name'),
    '`arch`': lambda e: f"`'{e['backbone']['arch']}'`",
    'channels': lambda e: ', '.join(e['backbone']['channels']),
    SIZE: lambda e: ' x '.join(e['shape']),
    'training': lambda e: e['training'],
}
MEASURED: Columns = {
    'reached here': lambda e: ', '.join(f'{v} {k}' for k, v in e['measured'].items())
}
LINK: Columns = {'config': lambda e: f'[config](../configs/{e["name"]})'}
FILE: Columns = {'config': lambda e: f'[{e["name"][:-3]}]({e["name"]})'}
ROW: Columns = {'row': lambda e: e['row']} | RESULTS_IN_PAPER


def table(columns: Columns, entries: Iterable[Entry]) -> str:
    """Lay out a Markdown table that can also be read as it is."""
    cells = [[title, *map(cell, entries)] for title, cell in columns.items()]
    cells = [
        c for c in cells if set(c[1:]) != {'-'} and (c[0] not in CONSTANT or len({*c[1:]}) > 1)
    ]
    for column in cells:
        if not any('(' in cell for cell in column[1:]):
            column[0] = column[0].removesuffix(PAPER)
    widths = [max(map(len, column)) for column in cells[:-1]]
    rows = [
        f'| {" | ".join([*map(str.ljust, row, widths), row[-1]])} |'
        for row in zip(*cells, strict=True)
    ]
    rule = '|'.join('-' * (width + 2) for width in [*widths, 1])
    return '\n'.join([rows[0], f'|{rule}|', *rows[1:]])


def gpu_speeds() -> dict[str, str]:
    """Read the speed of a training step in bf16 from docs/gpu.md, by backbone."""
    row = r'^\| (\S+) +bf16 +\|(?:[^|]*\|){4} *([\d.]+) *\|[^|]*\|$'
    return dict(re.findall(row, (ROOT / 'docs/gpu.md').read_text(), re.MULTILINE))


def summary(families: dict[str, Entry], configs: list[Entry], references: list[Entry]) -> str:
    """Lay out the README's table: a line for each backbone."""
    lines = {e['name']: {'ours': e['ours'], 'best': e['top-1'], **e} for e in references}
    for entry in (e for e in configs if e['data'] == 'ImageNet-1k' and '_320_' not in e['name']):
        name, top1 = entry['backbone']['name'], entry['paper'].get('top-1', '0')
        if float(top1) > float(lines.setdefault(name, {'best': '0'})['best']):
            lines[name] = entry | {'name': name, 'best': top1}
    gpu = gpu_speeds()
    measured = json.loads((ROOT / 'docs/throughput.json').read_text())['networks']
    cpu = {entry['name']: f'{entry["speed"]:#.2g}' for entry in measured}

    def what(line: Entry) -> str:
        network = line.get('backbone')
        return f"`{network['type']}`, `'{network['arch']}'`" if network else 'mmpretrain'

    def link(line: Entry) -> str:
        page = 'family' in line and families[line['family']]['page']
        return f'[{line["name"]}]({page})' if page else line['name']

    columns: Columns = {
        'backbone': link,
        '`type`, `arch`': what,
        'parameters': lambda line: count(line, 'parameters', paper=False),
        'MACs': lambda line: count(line, 'multiply_adds', paper=False),
        'image size': lambda line: line['shape'][0],
        'top-1': lambda line: line['best'],
        'CPU speed': lambda line: cpu.get(line['name'], '-'),
        'GPU training speed': lambda line: gpu.get(line['name'], '-'),
        'GPU training memory': lambda line: f'{line.get("backbone", line)["memory"]} GiB',
    }
    return table(columns, lines.values())


def tables(
    families: dict[str, Entry], configs: list[Entry], references: list[Entry]
) -> Iterator[tuple[str, str, str]]:
    """Yield page, name and text of every generated table."""
    yield 'README.md', 'backbones', summary(families, configs, references)
    for family, content in families.items():
        own = [e for e in configs if e['family'] == family and 'ours' in e]
        page, dense = content['page'], [e for e in own if e['method'] != '-']
        # ConTNet's paper leaves attention's products out, CMT's those of the detectors.
        counts = WITHOUT_ATTENTION if family == 'ConTNet' else COUNTS
        classifiers = [e for e in own if e['data'] == 'ImageNet-1k']
        columns = ARCH | RESULTS_IN_PAPER | counts | SOURCE | LINK
        yield page, 'classifiers', table(columns, classifiers)
        dense_counts = WITHOUT_ATTENTION if family == 'CMT' else counts
        columns = NETWORK | RESULTS_IN_PAPER | dense_counts | SOURCE | LINK
        yield page, 'dense prediction', table(columns, dense)
        for name, rows in content.get('tables', {}).items():
            compared = COUNTS | SOURCE | {'config': how}
            columns = compared if name == 'comparison' else counts | {'`--cfg-options`': how}
            yield page, name, table(ROW | columns, rows)
    index = NETWORK | RESULTS_IN_PAPER | COUNTS | MEMORY | SOURCE | FILE
    groups: dict[str, list[Entry]] = {}
    for entry in sorted(configs, key=lambda e: e['order']):
        known = entry['data'] in ('ImageNet-1k', 'COCO', 'Cityscapes', 'ADE20K')
        group = entry['data'] if known else 'small data' if 'measured' in entry else 'fine-tuning'
        groups.setdefault(group, []).append(entry)
    for name, entries in groups.items():
        columns = NETWORK | MEASURED | FILE if name == 'small data' else index
        yield 'configs/README.md', name, table(columns, entries)


def metafile(family: str, content: Entry, configs: list[Entry], classifiers: bool) -> str:
    """Write a family's classifiers, or its detectors and segmenters, in OpenMMLab's format."""
    paper = {'Title': content['title'], 'URL': content['url']}
    collection = {'Name': family, 'Metadata': {'Architecture': content['architecture']}}
    models = []
    for entry in configs:
        if entry['family'] != family or 'ours' not in entry or 'type' not in entry['backbone']:
            continue  # small data, or a ResNet
        if classifiers != (entry['method'] == '-'):
            continue
        stem = entry['name'].removesuffix('.py')
        model: Entry = {'Name': stem, 'In Collection': family, 'Config': f'configs/{stem}.py'}
        model['Metadata'] = {
            'Parameters': int(entry['ours']['parameters']),
            'FLOPs': int(entry['ours']['multiply_adds']),
            'Input Size': ' x '.join(entry['shape']),
        }
        results = [
            {'Task': task, 'Dataset': entry['data'], 'Metrics': {metric: float(value)}}
            for key, (task, metric) in METRICS.items()
            if (value := entry['paper'].get(key))
        ]
        if results:
            place = entry['paper']['source']
            place += '' if 'release' in place else ' of the paper'
            model |= {'Results': results, 'Results From': f'{place}, not reproduced here'}
        models.append(model)
    file = {'Collections': [{**collection, 'Paper': paper}]} if classifiers else {}
    return METAFILE + yaml.safe_dump({**file, 'Models': models}, sort_keys=False, width=100)


def generate() -> dict[Path, str]:
    """Return the whole text of every generated file and of every page with generated parts."""
    families, configs, references = read()
    files: dict[Path, str] = {}
    for page, name, text in tables(families, configs, references):
        path = ROOT / page
        begin, end = f'<!-- begin generated: {name} -->\n', '<!-- end generated -->'
        head, _, rest = (files.get(path) or path.read_text()).partition(begin)
        _, found, rest = rest.partition(end)
        if not found:
            sys.exit(f'make_tables.py: error: {page} has no lines {begin.strip()!r} and {end!r}')
        files[path] = head + begin + text + '\n' + end + rest
    for family, content in families.items():
        stem = ROOT / 'configs/metafiles' / Path(content['page']).stem
        # Apart, because mmpretrain can build the classifiers alone.
        files[stem.with_suffix('.yml')] = metafile(family, content, configs, True)
        files[Path(f'{stem}_dense.yml')] = metafile(family, content, configs, False)
    return files


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--check', action='store_true', help='write nothing, fail if it would')
    args = parser.parse_args()
    files = generate()
    old = [path for path in files if not path.is_file() or path.read_text() != files[path]]
    for path in old:
        name = path.relative_to(ROOT)
        print(f'{name} is not current: run tools/make_tables.py' if args.check else f'wrote {name}')
        if not args.check:
            path.write_text(files[path])
    sys.exit(1 if args.check and old else 0)


if __name__ == '__main__':
    main()
