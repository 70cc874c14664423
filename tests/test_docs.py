"""README and docs/ name what exists, and their configs, options and counts are right."""

import argparse
import re
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS

from mmcontnet.analysis.complexity import Cost, complexity
from mmcontnet.analysis.results import read_figures
from mmcontnet.engine import load_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
every_page = pytest.mark.parametrize('page', PAGES, ids=[page.name for page in PAGES])


def load_example(page: str, name: str, folder: Path) -> Config:
    """Take the config that a page shows under a name, as a reader would."""
    blocks = re.findall(r'```python\n(.+?)```', (ROOT / 'docs' / page).read_text(), re.DOTALL)
    (text,) = (block for block in blocks if block.startswith(f'# {name}\n'))
    (folder / 'configs').symlink_to(ROOT / 'configs')
    (folder / name).write_text(text)
    return load_config(str(folder / name))


@every_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r'\]\((?!https?:)(.+?)\)', page.read_text()):
        path, _, anchor = link.partition('#')
        assert (page.parent / path).is_file(), link
        headings = (
            re.findall(r'^#+ (.+)$', (page.parent / path).read_text(), re.MULTILINE)
            if (anchor)
            else []
        )
        assert not anchor or anchor in [h.lower().replace(' ', '-') for h in headings], link


@every_page
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    paths = re.findall(r'(?<![\w./])((?:configs|tools|tests|docs|requirements)/[\w./*-]+)', text)
    # Configs and tools by their names alone; capitals stand for a part that varies.
    names = re.findall(r'`([\w*]+_[\w*]+\.py)`', text)
    for path in {*paths, *(f'*/{name}' for name in names)}:
        pattern = re.sub(r'[A-Z]{4,}|\.\.\.', '*', path.rstrip('.'))
        assert list(ROOT.glob(pattern)), path


def tables(page: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the rows of a page's tables, each with its header."""
    header: list[str] = []
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if not line.startswith('|'):
            header = []
        elif not header:
            header = cells
        elif not set(line) <= set('|-'):
            yield header, cells


FIGURES = read_figures()


@cache
def figure_of(config: str) -> dict[str, Any]:
    """The figures of a config in configs/, or what one of mmpretrain's is counted to cost."""
    if '::' in config:
        return dict(ours=vars(complexity(load_config(config), (224, 224)).total))
    # The same network in another training.
    return FIGURES.get(config) or FIGURES[re.sub('_strong_aug|_advanced', '', config)]


def is_rounded(printed: str, value: int) -> bool:
    """Whether a printed count, such as 5,888,992 or 5.89M or 1.00 G, is that value rounded."""
    number, unit = re.fullmatch(r'([\d,.]+) ?([MG]?)', printed).groups()
    decimals = len(number.partition('.')[2])
    scale = {'': 1, 'M': 1e6, 'G': 1e9}[unit]
    return f'{value / scale:.{decimals}f}' == number.replace(',', '')


def wrong_counts(header: list[str], cells: list[str], figure: dict[str, Any]) -> Iterator[str]:
    """Yield the cells of a row whose counts are not the figure's; others pass in silence."""
    cost = Cost(**figure['ours'])
    bare = cost.multiply_adds - cost.attention
    kind = ''
    for title, cell in zip(header, cells, strict=True):
        right = True
        numbers = re.match(r'([\d,.]+)(?:(?: /|,) ([\d.]+))?( ?[MG])?(?= \(| at |$)', cell)
        if title.startswith('parameters'):
            kind = 'parameters'
            if numbers:
                right = is_rounded(numbers[1] + (numbers[3] or ''), cost.parameters)
        elif title.startswith(('multiply-adds', 'without attention')):
            kind = 'multiply_adds'
            if numbers:
                second = cost.attention if "attention's" in title else bare
                first = bare if title.startswith('without') else cost.multiply_adds
                right = is_rounded(numbers[1] + numbers[3], first)
                if numbers[2]:
                    right &= is_rounded(numbers[2] + numbers[3], second)
        elif title == 'paper' and kind and numbers and 'paper' in figure:
            right = cell == figure['paper'][kind]
        if not right:
            yield f'{title}: {cell}'


CONFIG = re.compile(r'`((?:mmpretrain::)?[\w/-]+_[\w-]+\.py)`')


def rows_with_configs() -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Yield page, config, header and cells of the rows that are about a config and its counts."""
    for page in PAGES:
        for header, cells in tables(page):
            config = CONFIG.search(' '.join(cells))
            if config and 'BACKBONE' in config[1]:
                for title, cell in zip(header[1:], cells[1:], strict=True):
                    parameters, multiply_adds = cell.partition('; ')[2].split(', ')
                    backbone = title.lower().replace('-', '')
                    yield (
                        page.name,
                        config[1].replace('BACKBONE', backbone),
                        ['parameters', 'multiply-adds'],
                        [parameters, multiply_adds],
                    )
            elif config and any(re.match(r'[\d,.]+( ?/.+)? ?[MG]\b', cell) for cell in cells):
                yield page.name, config[1], header, cells


COUNTED = list(rows_with_configs())


def test_the_tables_of_counts_were_found() -> None:
    assert {page for page, *_ in COUNTED} >= {'cmt.md', 'contnet.md', 'cotnet.md'}
    # Released rows that the paper does not have, and other sizes, which stand beside the first.
    no_row = re.compile('rcnn_se_cotnetd|se_cotnetd152_advanced')
    counted = {config for _, config, *_ in COUNTED}
    assert counted >= {config for config in FIGURES if not no_row.search(config)}


@pytest.mark.parametrize(('page', 'config', 'header', 'cells'), COUNTED)
def test_counts_beside_a_config_are_those_of_the_figures_file(
    page: str, config: str, header: list[str], cells: list[str]
) -> None:
    assert list(wrong_counts(header, cells, figure_of(config))) == []
    # Other sizes, as in: (256: 16.85, 320: 26.32).
    others = ' '.join(cell for cell in cells if ' G (' in cell)
    for side, number in re.findall(r'(\d{3}): ([\d.]+)', others):
        arch = config.partition('_8xb')[0]
        sizes = [f for name, f in FIGURES.items() if name.startswith(arch)]
        (figure,) = (f for f in sizes if f['shape'] == [int(side)] * 2)
        ours, paper = figure['ours']['multiply_adds'], figure['paper']['multiply_adds']
        assert is_rounded(f'{number} G', ours) or f'{number} G' == paper


def test_counts_of_the_readme_are_those_of_the_figures_file() -> None:
    archs: dict[str, dict[str, Cost]] = {}
    for name, figure in FIGURES.items():
        if name.endswith('_in1k.py'):
            backbone = load_config(str(ROOT / 'configs' / name)).model.backbone
            costs = archs.setdefault(backbone.type, {})
            costs.setdefault(backbone.arch, Cost(**figure['ours']))
    seen = []
    for header, (family, names, parameters, multiply_adds, _) in tables(ROOT / 'README.md'):
        assert header[1:4] == ['`arch`', 'parameters', 'multiply-adds']
        listed = re.findall("`'(.+?)'`", names)
        types = [kind for kind in archs if archs[kind].keys() >= set(listed)]
        if len(types) > 1:  # the names of archs tell which, or that of the family does
            types = [kind for kind in types if kind in family.replace('-', '')]
        costs = [archs[types[0]][arch] for arch in listed]
        seen += [(types[0], arch) for arch in listed]
        for numbers, unit, field in (
            (parameters, 'M', 'parameters'),
            (multiply_adds, ' G', 'multiply_adds'),
        ):
            for number, cost in zip(numbers.removesuffix(unit).split(', '), costs, strict=True):
                assert is_rounded(number + unit, getattr(cost, field)), (family, number)
    assert sorted(seen) == sorted((kind, arch) for kind in archs for arch in archs[kind])


COMMENTED = {}
for path in sorted((ROOT / 'configs').glob('*.py')):
    lines = takewhile(lambda line: line.startswith('#'), path.read_text().splitlines())
    comment = ' '.join(line[2:] for line in lines)
    if found := re.search(
        r'multiply-adds(?: at (\d+) x (\d+))?: ([\d.]+M) and ([\d.]+G) here'
        r"(?: and in the authors' network)?(?:, ([\d.]+M) and ([\d.]+G) in the paper)?",
        comment,
    ):
        COMMENTED[path.name] = found.groups()


@pytest.mark.parametrize('config', COMMENTED)
def test_counts_in_a_configs_comment_are_those_of_the_figures_file(config: str) -> None:
    height, width, parameters, multiply_adds, *paper = COMMENTED[config]
    figure = figure_of(config)
    assert height is None or figure['shape'] == [int(height), int(width)]
    assert is_rounded(parameters, figure['ours']['parameters'])
    assert is_rounded(multiply_adds, figure['ours']['multiply_adds'])
    if paper[0]:
        assert paper[0] == figure['paper']['parameters']
        assert paper[1] == figure['paper']['multiply_adds'].replace(' ', '')


def rows_with_options() -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Yield the options of the backbone in the pages' tables: config, option, header, cells."""
    for family, config in (
        ('contnet', 'cont_m_strong_aug_8xb64_in1k.py'),
        ('cotnet', 'cotnet50_8xb64_in1k.py'),
    ):
        for header, cells in tables(ROOT / f'docs/{family}.md'):
            option = re.fullmatch(r"`'?(model\.backbone\.[^`']+)'?`", cells[1])
            if option:
                yield config, option[1], header, cells


ROWS = list(rows_with_options())


def test_the_tables_of_ablations_were_found() -> None:
    assert len(ROWS) == 4 + 3 + 4 + 3 + 3


@pytest.mark.parametrize(('config', 'option', 'header', 'cells'), ROWS)
def test_options_of_the_ablations_give_the_counts_beside_them(
    config: str, option: str, header: list[str], cells: list[str]
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    options = parser.parse_args(['--cfg-options', option]).cfg_options
    total = complexity(load_config(str(ROOT / 'configs' / config), options), (224, 224)).total
    assert list(wrong_counts(header, cells, dict(ours=vars(total)))) == []


@pytest.mark.parametrize(('depth', 'channels'), [(18, 512), (50, 2048), (101, 2048)])
def test_resnets_in_contnets_recipe_are_those_of_table_2(
    depth: int, channels: int, tmp_path: Path
) -> None:
    cfg = load_example('contnet.md', 'res50.py', tmp_path)
    assert (cfg.model.backbone.depth, cfg.model.head.in_channels) == (50, 2048)
    cfg.merge_from_dict({'model.backbone.depth': depth, 'model.head.in_channels': channels})
    figure = dict(ours=vars(complexity(cfg, (224, 224)).total))
    ((header, cells),) = (
        (header, cells)
        for header, cells in tables(ROOT / 'docs/contnet.md')
        if cells[1] == f'`res{depth}.py`, below'
    )
    assert list(wrong_counts(header, cells, figure)) == []


def test_the_detector_for_ones_own_data_takes_its_classes_images_and_schedule(
    tmp_path: Path,
) -> None:
    cfg = load_example('own_data.md', 'crowns.py', tmp_path)
    with torch.device('meta'):
        assert MODELS.build(cfg.model).bbox_head.num_classes == 1
    for loader, split in ((cfg.train_dataloader, 'train'), (cfg.val_dataloader, 'val')):
        assert loader.dataset.metainfo.classes == ('tree',)
        assert loader.dataset.ann_file == f'annotations/{split}.json'
        assert loader.dataset.data_prefix == dict(img=f'{split}/')
    assert cfg.test_dataloader == cfg.val_dataloader
    assert cfg.test_evaluator.ann_file == 'data/tree_crowns/annotations/val.json'
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1].end == 36


def test_the_segmenter_for_ones_own_data_takes_its_classes_maps_and_schedule(
    tmp_path: Path,
) -> None:
    cfg = load_example('own_data.md', 'cells.py', tmp_path)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert model.decode_head.num_classes == model.auxiliary_head.num_classes == 2
    for loader, split in ((cfg.train_dataloader, 'train'), (cfg.val_dataloader, 'val')):
        assert loader.dataset.type == 'BaseSegDataset'
        assert loader.dataset.data_prefix.seg_map_path == f'maps/{split}'
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomResize'].scale == (512, 384)
    assert steps['RandomCrop'].crop_size == cfg.model.test_cfg.crop_size == (224, 224)
    (resize,) = (s for s in cfg.test_dataloader.dataset.pipeline if s.type == 'Resize')
    assert resize.scale == (512, 384)
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == 4000
