"""README and docs/ name what exists, and their configs, options and counts are right."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS

from mmcontnet.analysis.networks import build_model
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


def rows_with_options() -> Iterator[tuple[str, str, str]]:
    """Yield the options of the backbone in the pages' tables: config, option, parameters."""
    for family, config in (
        ('contnet', 'cont_m_strong_aug_8xb64_in1k.py'),
        ('cotnet', 'cotnet50_8xb64_in1k.py'),
    ):
        for line in (ROOT / f'docs/{family}.md').read_text().splitlines():
            option = re.match(r"\|[^|]+\| `'?(model\.backbone\.[^`']+)'?` \|", line)
            if option:
                (parameters, *_) = re.findall(r'\| (\d+\.\d\d)M \|', line)
                yield config, option[1], parameters


ROWS = list(rows_with_options())


def test_the_tables_of_ablations_were_found() -> None:
    assert len(ROWS) == 4 + 3 + 4 + 3 + 3


@pytest.mark.parametrize(('config', 'option', 'parameters'), ROWS)
def test_options_of_the_ablations_give_the_parameters_beside_them(
    config: str, option: str, parameters: str
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    options = parser.parse_args(['--cfg-options', option]).cfg_options
    model = build_model(load_config(str(ROOT / 'configs' / config), options), meta=True)
    assert f'{sum(p.numel() for p in model.parameters()) / 1e6:.2f}' == parameters


def test_resnet_50_in_contnets_recipe_is_the_resnet_50_of_table_2(tmp_path: Path) -> None:
    model = build_model(load_example('contnet.md', 'res50.py', tmp_path), meta=True)
    assert sum(p.numel() for p in model.parameters()) == 25_557_032


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
