"""Checkpoints of strangers: no code of theirs runs, in no tool, and what is wrong is said."""

import argparse
import os
import pickle
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import CheckpointLoader, load_checkpoint
from PIL import Image

from mmcontnet.engine import read_checkpoint
from mmcontnet.errors import UserError
from tests.inprocess import run_tool
from tests.integration.cli import ROOT


class Hostile:
    """Unpickling makes a folder."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ('harmed',)


class Climber:
    """Unpickling asks getattr, which logs need, for more than it is allowed to give."""

    def __reduce__(self) -> tuple:
        return getattr, (HistoryBuffer, '__init__')


def write(content: Any, path: Path, legacy: bool = False) -> str:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return str(path)


TOOLS = {
    'convert_checkpoint.py': ('bad.pth', 'out.pth'),
    'test.py': ('CONFIG', 'bad.pth'),
    'train.py --resume': ('CONFIG', '--resume', 'bad.pth'),
    'train.py load_from': ('CONFIG', '--cfg-options', 'load_from=bad.pth'),
    'train.py init_cfg': ('CONFIG', '--cfg-options', 'model.backbone.init_cfg.checkpoint=bad.pth'),
    'demo.py': ('image.png', 'CONFIG', 'bad.pth', '--out', 'out.png'),
    'attention_map.py': ('image.png', 'CONFIG', 'bad.pth', '--pixel', '3', '3', '--out', 'o.png'),
    'receptive_field.py': ('CONFIG=bad.pth', '--images', 'image.png', '--out', 'out.png'),
    'export_onnx.py': ('CONFIG', 'bad.pth', '--shape', '64', '64', '--out', 'out.onnx'),
    'path_rates.py': ('bad.pth', '--out', 'out.png'),
}


@pytest.mark.parametrize('content', [Hostile(), {'state_dict': {'w': Hostile()}}, Climber()])
@pytest.mark.parametrize('tool', TOOLS)
def test_no_tool_runs_what_a_checkpoint_holds(
    tool: str, content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(content, Path('bad.pth'))
    Image.new('RGB', (32, 32)).save('image.png')
    config = str(ROOT / 'configs/retinanet_cont_m_fpn_1x_coco.py')
    arguments = [argument.replace('CONFIG', config) for argument in TOOLS[tool]]
    message = run_tool(monkeypatch, tool.partition(' ')[0], *arguments)
    assert sorted(os.listdir()) == ['bad.pth', 'image.png']
    assert isinstance(message, str) and 'bad.pth' in message and '\n' not in message


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_hostile_files_are_refused_in_every_format(
    legacy: bool, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write({'a': torch.ones(2), 'b': Hostile()}, tmp_path / 'bad.pth', legacy)
    with pytest.raises(
        UserError, match=r"bad\.pth' is broken, or holds more .*\b(posix|nt)\.mkdir"
    ):
        read_checkpoint(path, device)
    assert not Path('harmed').exists()


def test_mmengines_own_reader_is_as_strict(tmp_path: Path) -> None:
    path = write({'state_dict': {}, 'meta': Hostile()}, tmp_path / 'bad.pth')
    with pytest.raises(UserError, match='holds more than weights'):
        load_checkpoint(torch.nn.Linear(1, 1), path)
    assert not os.path.exists('harmed')


def test_files_from_the_web_are_fetched_once_and_read_as_strictly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: 'hub')
    write({'w': torch.ones(2)}, Path('good.pth'))
    write({'w': Hostile()}, Path('bad.pth'))
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}'
        with pytest.raises(UserError, match=r"bad\.pth' is broken, or holds more"):
            CheckpointLoader.load_checkpoint(f'{url}/bad.pth')
        with pytest.raises(UserError, match=r"/none\.pth' cannot be fetched: .*404"):
            CheckpointLoader.load_checkpoint(f'{url}/none.pth')
        for _ in range(2):
            found = CheckpointLoader.load_checkpoint(f'{url}/good.pth?download=1')
            assert found['w'].tolist() == [1, 1]
            Path('good.pth').unlink(missing_ok=True)
        server.shutdown()
    assert not os.path.exists('harmed')


def test_what_a_training_saves_is_read(tmp_path: Path) -> None:
    log = HistoryBuffer([1.0, 3.0], [1, 1])
    content = dict(
        state_dict={'w': torch.ones(2)},
        message_hub=dict(
            log_scalars={'loss': log, 'lr': HistoryBuffer()},
            runtime_info=dict(best=np.float64(0.5)),
        ),
        args=argparse.Namespace(lr=0.1),
        meta=dict(epoch=1, seed=np.int64(3), classes=('a', 'b')),
    )
    path = write(content, tmp_path / 'epoch_1.pth')
    for found in (read_checkpoint(path), CheckpointLoader.load_checkpoint(path)):
        assert found['message_hub']['log_scalars']['loss'].mean() == 2
        assert found['message_hub']['runtime_info']['best'] == 0.5
        assert (found['meta'], found['args']) == (content['meta'], content['args'])


SCHEDULERS = [
    dict(type='ConstantLR'),
    dict(type='CosineAnnealingLR', T_max=3),
    dict(type='CosineRestartLR', periods=[2], restart_weights=[1], eta_min=0),
    dict(type='ExponentialLR', gamma=0.9),
    dict(type='LinearLR'),
    dict(type='MultiStepLR', milestones=[1, 2]),
    dict(type='OneCycleLR', eta_max=0.1, total_steps=10),
    dict(type='OneCycleLR', eta_max=0.1, total_steps=10, anneal_strategy='linear'),
    dict(type='PolyLR'),
    dict(type='ReduceOnPlateauLR', monitor='loss'),
    dict(type='StepLR', step_size=2),
]


@pytest.mark.parametrize('config', SCHEDULERS, ids=lambda config: config['type'])
def test_the_state_of_every_scheduler_is_read(config: dict[str, Any], tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    state = PARAM_SCHEDULERS.build(dict(config, optimizer=optimizer)).state_dict()
    path = write(dict(param_schedulers=[state]), tmp_path / 'epoch_1.pth')
    assert read_checkpoint(path)['param_schedulers'] == [state]


def test_no_scheduler_of_mmengine_goes_untested() -> None:
    tested = {config['type'] for config in SCHEDULERS}
    rates = {name for name in PARAM_SCHEDULERS.module_dict if name.endswith('LR')}
    assert rates == tested


def test_what_numpy_1_wrote_is_read(tmp_path: Path) -> None:
    pickled = pickle.dumps({'x': np.float64(0.5)}, protocol=2)
    assert b'numpy._core.multiarray' in pickled
    old = pickled.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')

    path = tmp_path / 'old.pth'
    torch.save({'x': np.float64(0.5)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
        for name, value in members.items():
            archive.writestr(name, old if name.endswith('data.pkl') else value)
    assert read_checkpoint(str(path))['x'] == 0.5


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('none.pth', 'not found'),
        ('empty.pth', 'cannot be read|is broken'),
        ('cut.pth', 'cannot be read'),
        ('text.pth', 'is broken'),
    ],
)
def test_files_that_are_no_checkpoints_are_named(name: str, message: str, tmp_path: Path) -> None:
    write(torch.zeros(10_000), tmp_path / 'whole.pth')
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'whole.pth').read_bytes()[:5000])
    (tmp_path / 'empty.pth').touch()
    (tmp_path / 'text.pth').write_text('<!DOCTYPE html><title>404</title>')
    with pytest.raises(UserError, match=rf"checkpoint '.*{name}' ({message})"):
        read_checkpoint(str(tmp_path / name))


def test_testing_refuses_weights_that_would_stay_random_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = ROOT / 'configs/retinanet_cont_m_fpn_1x_coco.py'
    write({'state_dict': {'backbone.stem.conv.0.weight': torch.zeros(3)}}, Path('other.pth'))
    message = run_tool(monkeypatch, 'test.py', config, 'other.pth', '--check-only')
    assert "checkpoint 'other.pth' does not fit: " in message
    assert '--allow-missing' in message
    message = run_tool(monkeypatch, 'test.py', config, 'other.pth', '--allow-missing')
    assert "data_root 'data/coco/' not found" in message  # the next check
