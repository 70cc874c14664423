"""README and docs/ name what exists, and the configs that they show work."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmcontnet.analysis.complexity import complexity
from mmcontnet.analysis.results import read_results
from mmcontnet.engine import load_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'configs/README.md', *sorted((ROOT / 'docs').glob('*.md'))]
every_page = pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))


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
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r'^#+ (.+)$', target.read_text(), re.MULTILINE)
            anchors = [re.sub(r'[^\w\- ]', '', h).lower().replace(' ', '-') for h in headings]
            assert anchor in anchors, link


@every_page
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    paths = re.findall(r'(?<![\w./])((?:configs|tools|tests|docs|requirements)/[\w./*-]+)', text)
    # Configs and tools by their names alone; capitals stand for a part that varies.
    names = re.findall(r'`([\w*]+_[\w*]+\.py)`', text)
    shown = set(re.findall(r'^# (\w+\.py)$', text, re.MULTILINE))
    shown |= {'res18.py', 'res101.py', 'res18_strong.py', 'res101_strong.py'}  # as res50.py
    for path in {*paths, *(f'*/{name}' for name in names if name not in shown)}:
        pattern = re.sub(r'[A-Z]{4,}|\.\.\.', '*', path.rstrip('.'))
        assert list(ROOT.glob(pattern)), path


@pytest.mark.parametrize(('depth', 'channels'), [(18, 512), (50, 2048), (101, 2048)])
def test_resnets_in_contnets_recipe_are_those_that_it_is_compared_with(
    depth: int, channels: int, tmp_path: Path
) -> None:
    cfg = load_example('contnet.md', 'res50.py', tmp_path)
    assert (cfg.model.backbone.depth, cfg.model.head.in_channels) == (50, 2048)
    cfg.merge_from_dict({'model.backbone.depth': depth, 'model.head.in_channels': channels})
    total = complexity(cfg, (224, 224)).total
    rows = read_results()['families']['ConTNet']['tables']['comparison']
    (row,) = (row for row in rows if row.get('example') == f'res{depth}.py')
    assert {key: getattr(total, key) for key in row['ours']} == row['ours']


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
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1].end


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
        steps = {step.type: step for step in loader.dataset.pipeline}
        resize = steps.get('RandomResize') or steps['Resize']
        assert resize.scale == (512, 384)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomCrop'].crop_size == cfg.model.test_cfg.crop_size == (224, 224)
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end
