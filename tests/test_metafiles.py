"""model-index.yml and the metafiles say what the repository has and what the papers report."""

import re
from itertools import takewhile
from pathlib import Path

import pytest
from modelindex.load_model_index import load
from modelindex.models.Model import Model

from mmcontnet.analysis.complexity import read_figures
from mmcontnet.analysis.networks import build_model
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
    figures = read_figures()
    config = Path(model.config).name
    figure = figures.get(config) or figures.get(config.replace('_strong_aug', ''))
    if config not in figures:
        network = build_model(load_config(str(ROOT / model.config)), meta=True)
        assert model.metadata.parameters == sum(p.numel() for p in network.parameters())
    if figure is None:
        assert model.metadata.flops is None  # nothing would notice if it changed
        return
    assert model.metadata.parameters == figure['ours']['parameters']
    assert model.metadata.flops == figure['ours']['multiply_adds']
    assert model.metadata.data['Input Size'] == '{} x {}'.format(*figure['shape'])


@every_model
def test_results_are_marked_as_the_papers_and_agree_with_the_config(model: Model) -> None:
    assert model.weights is None
    source = model.data.get('Results From', '')
    if not model.results:
        assert not source
        return
    table = re.fullmatch(r'table (\d+) of the paper, not reproduced here', source)[1]
    lines = (ROOT / model.config).read_text().splitlines()
    comment = ' '.join(takewhile(lambda line: line.startswith('#'), lines))
    assert re.search(rf'tables? (\d+ and )?{table}\b', comment)
    for result in model.results:
        for metric, value in result.metrics.items():
            kind = {'box AP': ' box AP', 'mask AP': ' mask AP', 'mIoU': ' mIoU'}.get(metric, ' %')
            assert f' {value}{kind}' in comment, metric
