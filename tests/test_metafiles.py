"""model-index.yml and the metafiles say what the repository has and what the papers report."""

import re
from itertools import takewhile
from pathlib import Path

import pytest
from modelindex.load_model_index import load
from modelindex.models.Model import Model

from mmcontnet.analysis.networks import build_model
from mmcontnet.analysis.results import read_figures
from mmcontnet.engine import load_config

ROOT = Path(__file__).parents[1]
INDEX = load(str(ROOT / 'model-index.yml'))
INDEX.build_models_with_collections()
MODELS = list(INDEX.models)
# ResNet-50, which the papers compare with, and the data sets that tools/prepare_*.py fetch.
LEFT_OUT = re.compile('_r50_|_tree_crowns|_nuclei|_digits')

every_model = pytest.mark.parametrize('model', MODELS, ids=[model.name for model in MODELS])


def test_index_names_every_metafile_and_all_of_it_is_valid() -> None:
    metafiles = sorted(path.relative_to(ROOT) for path in (ROOT / 'configs').rglob('*.yml'))
    imported = (ROOT / 'model-index.yml').read_text().replace('  - ', '').splitlines()
    assert sorted(imported) == ['Import:', *map(str, metafiles)]
    assert INDEX.check(silent=True) == []


def test_every_config_is_in_one_metafile_or_left_out_on_purpose() -> None:
    listed = sorted(model.config for model in MODELS)
    configs = sorted(f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.py'))
    assert listed == [config for config in configs if not LEFT_OUT.search(config)]


@every_model
def test_model_is_named_after_its_config_and_belongs_to_a_paper(model: Model) -> None:
    assert model.name == Path(model.config).stem
    assert model.in_collection in {collection.name for collection in INDEX.collections}
    assert model.full_model.paper['URL'].startswith('https://arxiv.org/abs/')


@every_model
def test_parameters_and_flops_are_those_of_the_network(model: Model) -> None:
    data = model.metadata.data if model.metadata else {}
    config = Path(model.config).name
    figures = read_figures()
    if figure := figures.get(config) or figures.get(config.replace('_strong_aug', '')):
        assert data['FLOPs'] == figure['ours']['multiply_adds']
        assert data['Input Size'] == '{} x {}'.format(*figure['shape'])
    else:
        assert 'FLOPs' not in data  # nothing would notice if it changed
    if config in figures:
        assert data['Parameters'] == figure['ours']['parameters']
    elif 'Parameters' in data or config.endswith('_in1k.py'):
        network = build_model(load_config(str(ROOT / model.config)), meta=True)
        assert data['Parameters'] == sum(p.numel() for p in network.parameters())


@every_model
def test_results_are_marked_as_others_and_agree_with_the_config(model: Model) -> None:
    assert model.weights is None
    source = model.data.get('Results From', '')
    if not model.results:
        assert not source
        return
    lines = (ROOT / model.config).read_text().splitlines()
    comment = ' '.join(line[2:] for line in takewhile(lambda line: line.startswith('#'), lines))
    source, status = source.split(', ')
    assert status == 'not reproduced here'
    if place := re.fullmatch(r'(table|figure) (\w+) of the paper', source):
        assert re.search(rf'paper .*{place[1]}s? (\d+ and )?{place[2]}\b', comment)
    else:
        assert source in comment  # such as: the authors' released results
    for result in model.results:
        for metric, value in result.metrics.items():
            unit = '%' if metric == 'Top 1 Accuracy' else metric
            assert value in map(float, re.findall(rf'([\d.]+) {unit}', comment))
