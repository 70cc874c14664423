"""Common mistakes end in one clear line, before any long work."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmcontnet.builders import build_model
from mmcontnet.engine import load_config
from mmcontnet.errors import TRACEBACK_VARIABLE, UserError

from ..engine.runs import HUB
from ..inprocess import run_tool
from .cli import ROOT, run
from .configs import write_detector
from .data import make_coco

RETINANET = ROOT / 'configs/retinanet_cont_m_fpn_1x_coco.py'
SCRATCH = 'model.backbone.init_cfg=None'


@pytest.fixture
def error_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a tool in a folder of the test; it must fail, and the one line that says why returns."""
    monkeypatch.chdir(tmp_path)

    def error(tool: str, *arguments: object) -> str:
        line = run_tool(monkeypatch, tool, *arguments)
        assert isinstance(line, str) and len(line.splitlines()) == 1
        return line

    return error


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['missing.py'], "config 'missing.py' not found"),
        ([RETINANET], "pretrained weights 'checkpoints/cont_m_in1k.pth'"),
        (
            [RETINANET, '--cfg-options', SCRATCH],
            "train_dataloader: data_root 'data/coco/' not found",
        ),
        (
            [RETINANET, '--cfg-options', SCRATCH, 'default_hooks.logger.type=Loger'],
            "default_hooks.logger: no 'Loger' is registered as hook; did you mean LoggerHook",
        ),
        (
            [RETINANET, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None'],
            '--auto-scale-lr needs auto_scale_lr.base_batch_size in the config',
        ),
        (
            [
                *(RETINANET, '--cfg-options', SCRATCH),
                'optim_wrapper.constructor=LearningRateDecayOptimizerConstructor',
                'optim_wrapper.paramwise_cfg.decay_rate=0.7',
                'optim_wrapper.paramwise_cfg.decay_type=layer_wise',
                'optim_wrapper.paramwise_cfg.num_layers=6',
            ],
            'For learning rates that decay by layer, take constructor=',
        ),
        ([RETINANET, '--resume', 'missing.pth'], "checkpoint 'missing.pth' not found"),
    ],
)
def test_training_names_the_mistake(
    arguments: list, message: str, tmp_path: Path, error_of: Callable[..., str]
) -> None:
    line = error_of('train.py', *arguments)
    assert line.startswith('train.py: error: ')
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_launcher_says_it_in_one_line_too(tmp_path: Path) -> None:
    lines = run(
        'dist_train.sh', RETINANET, 2, '--cfg-options', SCRATCH, cwd=tmp_path, ok=False
    ).stdout.splitlines()
    (line,) = [line for line in lines if 'Warning' not in line]
    assert line.startswith("train.py: error: train_dataloader: data_root 'data/coco/' not found")


def test_the_traceback_is_shown_when_asked_for(
    error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRACEBACK_VARIABLE, '')  # and as it was afterwards
    with pytest.raises(UserError, match=r"config 'missing\.py' not found"):
        error_of('train.py', 'missing.py', '--traceback')


@pytest.mark.skipif(torch.cuda.is_available(), reason='is no mistake with a GPU')
def test_amp_without_a_gpu_is_named(error_of: Callable[..., str]) -> None:
    assert '--amp needs a GPU' in error_of('train.py', RETINANET, '--amp')
    options = ('--cfg-options', SCRATCH, 'optim_wrapper.type=AmpOptimWrapper')
    line = error_of('train.py', RETINANET, *options)
    assert 'optim_wrapper: AmpOptimWrapper: ' in line and 'only available training on gpu' in line


def test_pretrained_weights_that_would_load_nothing_are_refused(
    tmp_path: Path, error_of: Callable[..., str]
) -> None:
    torch.save({'model': {'fc.weight': torch.zeros(3)}}, tmp_path / 'author.pth')
    option = 'model.backbone.init_cfg.checkpoint=author.pth'
    line = error_of('train.py', RETINANET, '--cfg-options', option)
    assert "'author.pth' with prefix 'backbone.' (model.backbone.init_cfg) does not fit: " in line
    assert 'tools/convert_checkpoint.py' in line and line.endswith(
        '--allow-missing trains nevertheless'
    )


def test_missing_annotations_and_a_full_disk_are_named(
    tmp_path: Path, error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_coco(tmp_path / 'data/coco', images=1)
    config = write_detector(tmp_path)

    def fail(file: int) -> None:
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as full:
        full.setattr(os, 'fsync', fail)
        line = error_of('train.py', config, '--work-dir', 'work')
    assert line.startswith("train.py: error: cannot write '")
    assert line.endswith("work/epoch_1.pth': No space left on device")
    (tmp_path / 'data/coco/annotations/instances_val2017.json').unlink()
    line = error_of('train.py', config)
    assert "val_dataloader: ann_file 'data/coco/annotations/instances_val2017.json'" in line


@pytest.mark.parametrize('only', [[], ['--check-only']])
def test_what_cannot_be_written_is_known_before_work_starts(
    only: list[str], tmp_path: Path, error_of: Callable[..., str]
) -> None:
    make_coco(tmp_path / 'data/coco', images=1)
    config = write_detector(tmp_path)
    torch.save(dict(state_dict=build_model(load_config(str(config))).state_dict()), 'w.pth')
    (tmp_path / 'folder.pkl').mkdir()
    before = sorted(tmp_path.rglob('*'))
    line = error_of('train.py', config, *only, '--work-dir', 'w.pth/run')
    assert re.search("cannot write (into )?'w.pth/run': Not a directory$", line)
    for option, path, message in (
        ('--work-dir', 'w.pth', "work_dir: cannot write 'w.pth': Not a directory"),
        ('--show-dir', 'w.pth', "--show-dir: cannot write 'w.pth': Not a directory"),
        ('--show-dir', 'x' * 300, 'File name too long'),
        ('--out', 'folder.pkl', "--out 'folder.pkl' is not a file"),
        ('--out', 'none/x.pkl', "no folder 'none' for --out"),
    ):
        assert error_of('test.py', config, 'w.pth', *only, option, path).endswith(message)
    assert sorted(tmp_path.rglob('*')) == before


def test_testing_names_missing_and_broken_checkpoints(
    tmp_path: Path, error_of: Callable[..., str]
) -> None:
    assert "checkpoint 'no.pth' not found" in error_of('test.py', RETINANET, 'no.pth')
    torch.save({'state_dict': {'x': torch.zeros(1000)}}, tmp_path / 'whole.pth')
    assert error_of('test.py', RETINANET, 'whole.pth').endswith(
        '--allow-missing tests nevertheless'
    )
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'whole.pth').read_bytes()[:2000])
    assert "checkpoint 'cut.pth' cannot be read" in error_of('test.py', RETINANET, 'cut.pth')


def test_a_training_at_another_image_size_is_not_resumed(
    tmp_path: Path, error_of: Callable[..., str]
) -> None:
    config = ROOT / 'configs/retinanet_cmt_ti_fpn_1000i_tree_crowns.py'
    content = dict(meta=dict(epoch=0, iter=5, seed=7), message_hub=HUB, optimizer={})
    model = build_model(load_config(str(config)))
    torch.save({**content, 'state_dict': model.state_dict()}, tmp_path / 'iter_5.pth')
    size = ('--cfg-options', 'model.backbone.img_size=96')
    line = error_of('train.py', config, '--resume', 'iter_5.pth', *size)
    assert "cannot resume from 'iter_5.pth': backbone.stages.0.position_bias.table is" in line
    assert line.endswith('(1, 3136, 49) there and (1, 576, 9) here, as for another img_size')
