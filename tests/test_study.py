"""tools/study.py, and the networks of configs/studies."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from mmcontnet.analysis.complexity import complexity

from .inprocess import run_tool
from .integration.cli import ROOT, run
from .integration.configs import write_classifier
from .integration.data import make_class_folders
from .preparation import load_tool

STUDIES = sorted((ROOT / 'configs/studies').glob('*_fashion_mnist.py'))


def test_differences_are_of_the_same_seeds() -> None:
    scores = dict(a={0: 90.0, 1: 92.0, 2: 70.0}, b={0: 89.0, 1: 89.0}, c={2: 1.0})
    found = load_tool('study').compare(scores)
    # 1 and 3: their mean, and sqrt(2) / sqrt(2).
    assert found == dict(a=dict(b=[2.0, 1.0]), b=dict(a=[-2.0, 1.0]), c={})


@pytest.mark.slow
@pytest.mark.parametrize('config', STUDIES, ids=lambda path: path.stem)
def test_the_networks_of_a_study_have_equal_macs(config: Path) -> None:
    cost = complexity(Config.fromfile(config), (64, 64)).total
    assert cost.multiply_adds == pytest.approx(70e6, rel=0.075)


def test_options_make_a_network_of_their_own() -> None:
    path = str(ROOT / 'configs/studies/cont_fashion_mnist.py')
    network = load_tool('study').Network.parse(
        f'{path}@model.backbone.pos_encoding=1d@optim_wrapper.optimizer.lr=0.1'
    )
    assert network.name == 'cont_fashion_mnist@pos_encoding=1d@lr=0.1'
    cfg = network.load(['optim_wrapper.optimizer.lr=0.5'])  # for all: its own come later
    assert cfg.model.backbone.pos_encoding == '1d' and cfg.optim_wrapper.optimizer.lr == 0.1


def test_networks_of_one_folder_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    networks = [f'{STUDIES[0]}@{part}.norm_eval=True' for part in ('model', 'model.backbone')]
    said = run_tool(monkeypatch, 'study.py', *networks, '--out', tmp_path / 'study')
    assert 'two networks are called' in str(said)


@pytest.mark.slow
def test_a_study_trains_what_is_missing_and_says_what_failed(tmp_path: Path) -> None:
    make_class_folders(tmp_path / 'data/imagenet')
    config = write_classifier(tmp_path)
    broken = tmp_path / 'broken.py'
    broken.write_text("_base_ = './classifier.py'\nmodel = dict(head=dict(in_channels=7))\n")
    options = ['--out', 'study', '--shape', '64', '64', '--seeds']
    first = run('study.py', config, *options, '0', cwd=tmp_path).stdout
    assert 'classifier, seed 0: ' in first
    again = run('study.py', config, broken, *options, '0', '1', cwd=tmp_path, ok=False)
    said = again.stdout
    assert 'classifier, seed 0: ' not in said and 'classifier, seed 1: ' in said
    assert 'study.py: error: 2 of 4 trainings failed, see above' in said
    assert (
        'study.py: broken with seed 1 failed, see study/broken/1/log.txt: train.py: error:' in said
    )
    (network,) = json.loads((tmp_path / 'study/study.json').read_text())['networks']
    assert sorted(network['runs']) == ['0', '1']
    assert '| classifier |' in (tmp_path / 'study/study.md').read_text()
    changed = ['--cfg-options', 'train_cfg.max_epochs=2']
    other = run('study.py', config, *options, '0', *changed, cwd=tmp_path, ok=False)
    assert 'was trained with --cfg-options' in other.stdout
