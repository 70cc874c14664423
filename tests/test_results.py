"""The results file is complete, and everything that is written from it is current."""

import argparse
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from mmengine.config import DictAction
from modelindex.load_model_index import load

from mmcontnet import backbones
from mmcontnet.analysis.complexity import complexity
from mmcontnet.analysis.results import read_figures, read_results
from mmcontnet.backbones.base import HybridBackbone
from mmcontnet.engine import load_config

from .inprocess import run_tool

ROOT = Path(__file__).parents[1]
RESULTS = Path('mmcontnet/analysis/results.yml')
FAMILIES = read_results()['families']
VARIANTS = {
    (backbone['type'], backbone['arch']): word
    for family in FAMILIES.values()
    for word, backbone in family['backbones'].items()
    if 'type' in backbone  # ResNet-50 is not ours
}
CONFIGS = {name: e for family in FAMILIES.values() for name, e in family['configs'].items()}


def test_every_config_has_figures_or_is_for_small_data() -> None:
    assert CONFIGS.keys() == {path.name for path in (ROOT / 'configs').glob('*.py')}
    small = {name for name in CONFIGS if re.search('_tree_crowns|_nuclei|_digits', name)}
    assert CONFIGS.keys() - read_figures().keys() == small
    assert {name for name, entry in CONFIGS.items() if 'measured' in entry} == small


def test_every_variant_of_every_backbone_has_a_name_and_a_classifier() -> None:
    archs = set()
    for name in backbones.__all__:
        backbone = getattr(backbones, name)
        if issubclass(backbone, HybridBackbone) and backbone is not HybridBackbone:
            module = __import__(backbone.__module__, fromlist=['ARCHS'])
            archs |= {(name, arch) for arch in module.ARCHS}
    assert VARIANTS.keys() == archs
    for word in VARIANTS.values():
        assert any(re.match(rf'{word}_\d+xb\d+_in1k', name) for name in CONFIGS), word


ROWS = {
    f'{family}, {table}, {row["row"]}': row
    for family, content in FAMILIES.items()
    for table, rows in content.get('tables', {}).items()
    for row in rows
    if 'ours' in row and 'config' in row
}


@pytest.mark.parametrize('row', ROWS.values(), ids=ROWS)
def test_rows_of_the_papers_tables_cost_what_is_counted(row: dict[str, Any]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    options = ['--cfg-options', row['options']] if 'options' in row else []
    config = row['config'] if '::' in row['config'] else str(ROOT / 'configs' / row['config'])
    cfg = load_config(config, parser.parse_args(options).cfg_options)
    total = complexity(cfg, (224, 224)).total
    expected = {'attention': 0, **row['ours']}
    assert {key: getattr(total, key) for key in expected} == expected


@pytest.mark.parametrize('name', read_results()['references'])
def test_networks_of_mmpretrain_in_the_readmes_table_cost_what_is_counted(name: str) -> None:
    reference = read_results()['references'][name]
    total = complexity(load_config(name), tuple(reference['shape'])).total
    assert {key: getattr(total, key) for key in reference['ours']} == reference['ours']


def test_tables_and_metafiles_are_current(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    status = run_tool(monkeypatch, 'make_tables.py', '--check')
    assert (capsys.readouterr().out, status) == ('', 0)


def test_a_changed_number_makes_its_pages_old_until_they_are_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    pages = ['README.md', 'docs', 'configs/README.md', 'configs/metafiles', RESULTS]
    for page in map(Path, pages):
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / page).is_dir() else shutil.copy
        copy(ROOT / page, tmp_path / page)
    (tmp_path / 'tools').mkdir()
    tool = shutil.copy(ROOT / 'tools/make_tables.py', tmp_path / 'tools')
    monkeypatch.setattr('sys.argv', ['make_tables.py', '--check'])

    def run() -> tuple[list[str], Any]:
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(tool), run_name='__main__')
        return capsys.readouterr().out.splitlines(), stop.value.code

    results = tmp_path / RESULTS
    results.write_text(results.read_text().replace('parameters: 19536936', 'parameters: 19936936'))
    lines, status = run()
    old = ['README.md', 'configs/README.md', 'configs/metafiles/contnet.yml', 'docs/contnet.md']
    assert sorted(line.split()[0] for line in lines) == old
    assert status == 1
    monkeypatch.setattr('sys.argv', ['make_tables.py'])
    assert run()[1] == 0
    assert '19.9M (19.2M)' in (tmp_path / 'docs/contnet.md').read_text()
    monkeypatch.setattr('sys.argv', ['make_tables.py', '--check'])
    assert run() == ([], 0)
    results.write_text(results.read_text().replace('cont_m_8xb64_in1k', 'cont_m_in1k_8xb64'))
    assert 'cont_m_in1k_8xb64.py' in str(run()[1])


def test_metafiles_are_valid_and_claim_no_weights() -> None:
    index = load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    assert index.check(silent=True) == []
    metafiles = sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'configs/metafiles').iterdir())
    assert sorted(yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']) == metafiles
    # All but ResNet-50 and the small data.
    left_out = re.compile('_r50_|_tree_crowns|_nuclei|_digits')
    listed = sorted(model.config for model in index.models)
    assert listed == sorted(f'configs/{name}' for name in CONFIGS if not left_out.search(name))
    for model in index.models:
        assert model.weights is None
        assert not model.results or model.data['Results From'].endswith('not reproduced here')
