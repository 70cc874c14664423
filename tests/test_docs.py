"""README and docs/ name what exists, and the configs that they show work."""

import errno
import os
import re
from pathlib import Path

import pytest

from mmcontnet.analysis.complexity import complexity
from mmcontnet.analysis.results import read_results
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
