"""README and docs/ name what exists, and the configs that they show work."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmcontnet.analysis.complexity import complexity
from mmcontnet.analysis.results import read_results
from mmcontnet.builders import build_model
from mmcontnet.engine import load_config

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob('*.md'), ROOT / 'configs/README.md', *sorted((ROOT / 'docs').glob('*.md'))]
every_page = pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))


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
    page = (ROOT / 'docs/contnet.md').read_text()
    (text,) = re.findall(r'```python\n(# res50\.py\n.+?)```', page, re.DOTALL)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'res50.py').write_text(text)
    cfg = load_config(str(tmp_path / 'res50.py'))
    assert (cfg.model.backbone.depth, cfg.model.head.in_channels) == (50, 2048)
    cfg.merge_from_dict({'model.backbone.depth': depth, 'model.head.in_channels': channels})
    total = complexity(cfg, (224, 224)).total
    rows = read_results()['families']['ConTNet']['tables']['comparison']
    (row,) = (row for row in rows if row.get('example') == f'res{depth}.py')
    assert {key: getattr(total, key) for key in row['ours']} == row['ours']


@pytest.mark.slow
def test_the_script_that_draws_attention_runs(tmp_path: Path) -> None:
    page = (ROOT / 'docs/contnet.md').read_text()
    (text,) = re.findall(r'```python\n(# attention_map\.py\n.+?)```', page, re.DOTALL)
    config = ROOT / 'configs/retinanet_cont_ti_fpn_1000i_tree_crowns.py'
    model = build_model(load_config(str(config)))
    encoder = model.backbone.stages[1][-1].encoders[1]
    with torch.no_grad():  # all tokens attend to the first row of their patch, and to it alone
        encoder.position.row.zero_()
        encoder.position.column.zero_()
        encoder.position.row[0, 0] = 1e6
        encoder.qkv.weight.zero_()
        encoder.qkv.bias.zero_()
        width = encoder.qkv.in_features
        encoder.qkv.weight[width : 2 * width, 0] = 1e-4
        encoder.qkv.bias[:width] = 1
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    photo = np.full((200, 400, 3), 128, np.uint8)
    cv2.imwrite(str(tmp_path / 'photo.png'), photo)
    files = [tmp_path / name for name in ('model.pth', 'photo.png', 'picture.png')]
    subprocess.run([sys.executable, '-c', text, config, *files], check=True)
    drawn = cv2.imread(str(files[-1])).astype(int)
    bright = np.isin(np.arange(200) // 8, (0, 14))
    np.testing.assert_allclose(drawn[bright, :9], np.full((16, 9, 3), (128, 188, 248)), atol=2)
    np.testing.assert_allclose(drawn[~bright, :9], 51, atol=2)


def test_what_troubleshooting_quotes_is_what_the_tools_say() -> None:
    rows = re.findall(
        r'^\|(.+?)\|(.+?)\|(.+?)\|$', (ROOT / 'docs/troubleshooting.md').read_text(), re.M
    )
    quoted = [text for _, here, _ in rows for text in re.findall('`(.+?)`', here)]
    files = [*(ROOT / 'mmcontnet').rglob('*.py'), *(ROOT / 'tools').glob('*.py')]
    # Strings over several lines, and names in braces.
    source = re.sub(r"'\s*\n\s*f?'", '', '\n'.join(path.read_text() for path in files))
    system = {os.strerror(errno.ENOSPC)}
    assert len(quoted) >= 40
    assert [text for text in quoted if text not in source and text not in system] == []
