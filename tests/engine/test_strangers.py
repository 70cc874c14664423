"""Checkpoints that are no good: each is named in a line, without memory for what it claims."""

import os
import pickle
import re
import resource
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmcontnet.engine.loading import load_weights
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from mmcontnet.analysis.networks import build_model
from mmcontnet.backbones import CMT, ConTNet, ResNetACmix
from mmcontnet.engine import (
    BACKBONE,
    check_model,
    load_checkpoint,
    load_config,
    read_checkpoint,
    read_weights,
)
from mmcontnet.errors import CheckpointError, UserError, WeightMismatchError
from mmcontnet.weights import convert_checkpoint
from tests.backbones import small
from tests.inprocess import run_tool
from tests.integration.cli import ROOT
from tests.integration.configs import write_detector
from tests.parity import record

State = dict[Any, Any]


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Give a test its own folder, and 2 GiB beyond what the process has."""
    monkeypatch.chdir(tmp_path)
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**31, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Claim:
    """A tensor whose pickle gives it a shape for which its storage has no room."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __reduce__(self) -> tuple:
        storage = torch.ones(1)._typed_storage()
        strides = (1,) * len(self.shape)
        return torch._utils._rebuild_tensor_v2, (
            storage,
            0,
            self.shape,
            strides,
            False,
            OrderedDict(),
        )


def rewrite(path: Path, edit: Callable[[bytes], bytes] = bytes, compression: int = 0) -> None:
    """Change the pickle of an archive, and how its members are compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, value in members.items():
            archive.writestr(name, edit(value) if name.endswith('data.pkl') else value)


def claim_storage(content: bytes) -> bytes:
    """Let the storage of the 77 numbers, and their tensor, be one of 2 ** 31 - 1."""
    few, many = (pickle.dumps(n, protocol=2)[2:-1] for n in (77, 2**31 - 1))
    assert content.count(few) == 2
    return content.replace(few, many)


def save(fault: str, good: State, path: Path) -> None:
    """Write a checkpoint that is good but for one thing."""
    name = next(name for name in good if 'running' not in name)
    huge = torch.ones(1).expand(2**31)
    changes: dict[str, Any] = {
        'expanded': {name: huge},
        'expanded, and many': {f'{name}.{i}': torch.ones(1).expand(2**26) for i in range(32)},
        'beyond its storage': {name: Claim(2**31)},
        'larger storage': {name: torch.zeros(77)},
        'larger': {name: torch.zeros(10**6)},
        'not a number': {name: good[name] * float('nan')},
        'infinite': {name: good[name] - float('inf')},
        'no tensor': {name: [1.0, 2.0]},
        'numbered': {3: good[name]},
        'two lines': {'a\nb': good[name]},
        'without values': {name: torch.empty_like(good[name], device='meta')},
        'sparse': {name: good[name].to_sparse()},
        'compressed': {name: torch.zeros(10**6)},
    }
    if fault == 'folder':
        path.mkdir()
    elif fault in ('empty', 'text'):
        path.write_text('<!DOCTYPE html>' if fault == 'text' else '')
    elif fault in ('list', 'nothing'):
        torch.save([good[name]] if fault == 'list' else {}, path)
    else:
        logs = dict(meta=dict(epoch=1, iter=2), message_hub={}, optimizer={})
        torch.save({'state_dict': {**good, **changes.get(fault, {})}, **logs}, path)
    if fault == 'cut':
        path.write_bytes(path.read_bytes()[:-100])
    elif fault == 'larger storage':
        rewrite(path, claim_storage)
    elif fault == 'compressed':
        rewrite(path, compression=zipfile.ZIP_DEFLATED)


#: What is wrong with the file, and what both the converter and the other tools say of it.
FAULTS = {
    'folder': 'is a folder, not a file',
    'empty': r'is broken, or holds more than weights|cannot be read as torch\.save writes it: \w+',
    'text': 'is broken, or holds more than weights',
    'cut': r'cannot be read as torch\.save writes it: \S+',
    'list': 'no state dict.*: it is no mapping|no tensors by their names',
    'expanded': 'would take 8.6e+09 bytes of memory',
    'expanded, and many': 'would take 8.6e+09 bytes of memory',
    'beyond its storage': r'cannot be read as torch\.save writes it: .*storage',
    'larger storage': r'cannot be read as torch\.save writes it: .*storage',
    'compressed': r'cannot be read as torch\.save writes it: .*storage',
    'larger': 'of another shape|of unknown arch: .* width 1000000',
    'not a number': r'holds NaN or infinity in 1 tensors \(\S+\), as a training that diverged',
    'infinite': r'holds NaN or infinity in 1 tensors \(\S+\), as a training that diverged',
    'no tensor': 'is of type list; weights are tensors|missing or of another shape',
    'numbered': 'a key of type int; names are strings',
    'two lines': r"the name 'a\\nb' cannot be printed",
    'without values': 'is a tensor without values',
    'sparse': 'quantized, nested or sparse; weights are dense tensors',
    'nothing': r'unknown checkpoint: it holds no keys|of ConTNet are missing',
}
FAULTS = {fault: message.replace('e+', r'e\+') for fault, message in FAULTS.items()}


@pytest.fixture(scope='module')
def backbone() -> ConTNet:
    return ConTNet(small.CONTNET)


@pytest.mark.parametrize('fault', FAULTS)
def test_loading_names_the_file_and_the_fault(fault: str, backbone: ConTNet) -> None:
    save(fault, backbone.state_dict(), Path('bad.pth'))
    with pytest.raises(UserError, match=rf"^checkpoint 'bad\.pth' .*({FAULTS[fault]})") as error:
        load_checkpoint(backbone, 'bad.pth')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('fault', FAULTS)
def test_converting_names_the_file_and_the_fault_and_writes_nothing(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = record('cont-s')['state_dict']
    save(fault, {k: torch.zeros(()).expand(s) for k, s in shapes.items()}, Path('bad.pth'))
    line = run_tool(monkeypatch, 'convert_checkpoint.py', 'bad.pth', 'out.pth')
    assert isinstance(line, str) and '\n' not in line
    with pytest.raises(CheckpointError, match=rf"'bad\.pth' .*({FAULTS[fault]})"):
        convert_checkpoint('bad.pth', 'out.pth')
    assert os.listdir() == ['bad.pth']


@pytest.mark.skipif(os.geteuid() == 0, reason='root reads everything')
def test_a_file_that_must_not_be_read_is_named() -> None:
    Path('bad.pth').touch(mode=0)
    with pytest.raises(UserError, match=r"'bad\.pth' cannot be read .*Permission denied"):
        read_weights('bad.pth')


def test_weights_of_another_family_are_refused() -> None:
    state = {f'backbone.{key}': value for key, value in CMT(small.CMT).state_dict().items()}
    torch.save({'state_dict': state}, 'cmt.pth')
    with pytest.raises(UserError, match=r"'cmt\.pth' does not fit: (\d+) of \1 tensors of ConTNet"):
        load_checkpoint(ConTNet(small.CONTNET), 'cmt.pth', 'backbone.')


def test_infinity_in_a_buffer_that_is_not_learnt_is_its_meaning() -> None:
    module = torch.nn.Linear(1, 1)
    module.register_buffer('mask', torch.zeros(2))
    state = {**module.state_dict(), 'mask': torch.tensor([0, -torch.inf])}
    assert load_weights(module, state, 'it') == []
    assert module.mask.isinf().any()


@pytest.fixture(scope='module')
def whole_model(tmp_path_factory: pytest.TempPathFactory) -> State:
    """Return the state of the detector that ``write_detector`` describes."""
    config = write_detector(tmp_path_factory.mktemp('config'))
    return build_model(load_config(str(config))).state_dict()


TOOLS = {
    'test.py': ('CONFIG', 'bad.pth'),
    'train.py --resume': ('CONFIG', '--resume', 'bad.pth'),
    'train.py load_from': ('CONFIG', '--cfg-options', 'load_from=bad.pth'),
    'train.py init_cfg': ('CONFIG',),
    'demo.py': ('image.png', 'CONFIG', 'bad.pth', '--out', 'out.png'),
    'attention_map.py': ('image.png', 'CONFIG', 'bad.pth', '--out', 'o.png'),
    'receptive_field.py': ('CONFIG=bad.pth', '--images', 'image.png', '--out', 'out.png'),
    'export_onnx.py': ('CONFIG', 'bad.pth', '--shape', '64', '64', '--out', 'out.onnx'),
}


@pytest.mark.parametrize('fault', ['folder', 'cut', 'expanded', 'not a number', 'numbered'])
@pytest.mark.parametrize('tool', TOOLS)
def test_every_tool_says_it_in_a_line_and_writes_nothing(
    tool: str,
    fault: str,
    whole_model: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = write_detector(tmp_path)
    if tool.endswith('init_cfg'):
        init_cfg = "dict(type='Pretrained', checkpoint='bad.pth', prefix='backbone.')"
        config.write_text(config.read_text().replace('init_cfg=None', f'init_cfg={init_cfg}'))
    Image.new('RGB', (32, 32)).save('image.png')
    save(fault, whole_model, Path('bad.pth'))
    arguments = [argument.replace('CONFIG', str(config)) for argument in TOOLS[tool]]
    line = run_tool(monkeypatch, tool.partition(' ')[0], *arguments)
    assert isinstance(line, str) and '\n' not in line
    assert line.startswith(tool.partition(' ')[0] + ": error: checkpoint 'bad.pth' ")
    assert sorted(os.listdir()) == ['bad.pth', 'image.png', config.name]


@pytest.mark.parametrize('rate', [torch.ones(2), torch.tensor(float('nan')), 1.0])
def test_rates_that_are_no_numbers_are_named(rate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = ResNetACmix(small.RESNET_ACMIX, combine='rates').state_dict()
    name = next(name for name in state if name.endswith('rate_convolution'))
    torch.save({'state_dict': {**state, name: rate}}, 'bad.pth')
    line = run_tool(monkeypatch, 'path_rates.py', 'bad.pth', '--out', 'out.png')
    assert line.startswith("path_rates.py: error: checkpoint 'bad.pth'")
    assert name.rpartition('.')[0] in line
    assert os.listdir() == ['bad.pth']


def test_options_that_swins_training_keeps_beside_the_weights_are_read_without_yacs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As yacs has it: a dict that keeps its state beside.
    node = type('CfgNode', (dict,), {'__module__': 'yacs.config'})
    module = types.ModuleType('yacs.config')
    module.CfgNode = node  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    config = node(MODEL=node(TYPE='swin', DEPTHS=[2, None]))
    config.__dict__.update(__immutable__=True, __deprecated_keys__=set())
    shapes = record('cont-s')['state_dict']
    state = {k: torch.zeros(()).expand(s) for k, s in shapes.items()}
    torch.save({'model': state, 'config': config}, 'author.pth')
    monkeypatch.setitem(sys.modules, 'yacs.config', None)
    assert read_checkpoint('author.pth')['config']['MODEL'] == {'TYPE': 'swin', 'DEPTHS': [2, None]}
    assert convert_checkpoint('author.pth', 'ours.pth').entry == 'model'


NO_DATA = "data_root 'data/coco/' not found"  # the next check


@pytest.mark.parametrize(
    ('lacks', 'option', 'message', 'told'),
    [
        ('none', [], NO_DATA, None),
        ('bbox_head.retina_cls', [], NO_DATA, "load_from 'weights.pth' has no .* fit 2 tensors"),
        (
            'backbone.stem',
            [],
            r"'weights\.pth' does not fit: 1 of .*; --allow-missing trains",
            None,
        ),
        ('b', [], 'does not fit: .*; --allow-missing trains nevertheless', None),  # and the head
        ('b', ['--allow-missing'], NO_DATA, None),
    ],
)
def test_training_starts_without_a_head_but_not_without_a_backbone(
    lacks: str,
    option: list[str],
    message: str,
    told: str | None,
    whole_model: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    config = write_detector(tmp_path)
    state = {key: value for key, value in whole_model.items() if not key.startswith(lacks)}
    torch.save({'state_dict': state}, 'weights.pth')
    options = ['--cfg-options', 'load_from=weights.pth', *option]
    line = run_tool(monkeypatch, 'train.py', config, *options)
    assert re.search(message, str(line))
    error = capsys.readouterr().err
    assert re.search(told, error) if told else 'load_from' not in error


@pytest.mark.parametrize(
    ('lacks', 'message'),
    [
        ('none', NO_DATA),
        ('bbox_head.retina_cls', r"'bad\.pth' does not fit: 2 of \d+ tensors of RetinaNet .*\)$"),
        ('backbone', r"'bad\.pth' does not fit"),
    ],
)
def test_a_training_goes_on_with_all_weights_alone(
    lacks: str, message: str, whole_model: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_detector(tmp_path)
    state = {key: value for key, value in whole_model.items() if not key.startswith(lacks)}
    save('', state, Path('bad.pth'))
    line = run_tool(monkeypatch, 'train.py', config, '--resume', 'bad.pth')
    assert re.search(message, str(line))


def test_a_run_that_left_no_checkpoint_starts_as_its_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ['--resume', '--cfg-options', 'load_from=none.pth']
    line = run_tool(monkeypatch, 'train.py', write_detector(tmp_path), *options)
    assert line == "train.py: error: checkpoint 'none.pth' not found"


@pytest.mark.parametrize('meta', [{}, dict(epoch=1, iter=2, config='open("harmed", "w")')])
def test_a_training_goes_on_by_what_a_training_saves_and_runs_no_config_of_its(
    meta: dict, whole_model: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_detector(tmp_path)
    torch.save(dict(state_dict=whole_model, meta=meta, message_hub={}, optimizer={}), 'bad.pth')
    line = run_tool(monkeypatch, 'train.py', config, '--resume', 'bad.pth')
    assert re.search(r"'bad\.pth': its meta(\.config is a program| does not say epoch)", str(line))
    assert not os.path.exists('harmed')


def test_a_head_may_have_more_tensors_than_the_backbone() -> None:
    model = torch.nn.ModuleDict(
        dict(backbone=torch.nn.Linear(1, 1), head=torch.nn.Sequential(*[torch.nn.Linear(1, 1)] * 9))
    )
    weights = {name: value for name, value in model.state_dict().items() if 'backbone' in name}
    assert len(load_weights(model, weights, 'it', BACKBONE)) == 18


def test_one_file_is_started_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = ['--cfg-options', 'load_from=a.pth,b.pth']
    line = run_tool(monkeypatch, 'train.py', write_detector(tmp_path), *options)
    assert line == "train.py: error: load_from must be one file or URL, got ['a.pth', 'b.pth']"


@pytest.mark.parametrize('key', ['load_from', 'model.backbone.init_cfg.checkpoint'])
def test_weights_that_cannot_be_fetched_are_named(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: 'hub')
    config = ROOT / 'configs/retinanet_cont_m_fpn_1x_coco.py'
    url = 'http://127.0.0.1:9/weights.pth'  # where nothing listens
    line = run_tool(monkeypatch, 'train.py', config, '--cfg-options', f'{key}={url}')
    assert str(line).startswith(f"train.py: error: checkpoint '{url}' cannot be fetched: ")
    assert '\n' not in str(line)


def test_backbones_of_others_are_refused_weights_of_which_almost_none_fits() -> None:
    backbone = dict(type='mmdet.ResNet', depth=18, base_channels=4)
    state = MODELS.build(backbone).state_dict()
    init_cfg = dict(type='Pretrained', checkpoint='weights.pth')
    cfg = Config(dict(model=dict(backbone=dict(backbone, init_cfg=init_cfg))))
    names = sorted(state)
    torch.save({name: state[name] for name in names[: len(names) * 2 // 3]}, 'weights.pth')
    check_model(cfg)
    torch.save({name: state[name] for name in names[: len(names) // 3]}, 'weights.pth')
    with pytest.raises(WeightMismatchError, match=r"'weights\.pth' .* does not fit: .* of ResNet"):
        check_model(cfg)
    check_model(cfg, allow_missing=True)
