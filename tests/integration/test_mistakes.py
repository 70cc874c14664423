"""Common mistakes end in one clear line, before any long work."""

from pathlib import Path

import pytest
import torch

from mmcontnet.analysis.networks import build_model
from mmcontnet.engine import load_config

from .cli import ROOT, run
from .configs import write_detector
from .data import make_coco

RETINANET = ROOT / 'configs/retinanet_cont_m_fpn_1x_coco.py'
SCRATCH = 'model.backbone.init_cfg=None'


def error_of(*command: object, cwd: Path) -> str:
    """Run a command that must fail, and return the one line that says why."""
    lines = run(*command, cwd=cwd, ok=False).stdout.splitlines()
    lines = [line for line in lines if 'Warning' not in line and 'OneDL' not in line]
    assert len(lines) == 1, lines
    return lines[0]


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
            [RETINANET, '--cfg-options', SCRATCH, 'model.backbone.depth=50'],
            'model.backbone: ConTNet has no argument depth; it takes arch, downsample',
        ),
        (
            [RETINANET, '--cfg-options', SCRATCH, 'model.backbone.arch=xl'],
            "model.backbone: ConTNet has no arch 'xl'; choose from",
        ),
        (
            [RETINANET, '--cfg-options', 'model.backbone.type=ConvNet'],
            "model.backbone: no backbone of type 'ConvNet' is registered",
        ),
        ([RETINANET, '--resume', 'missing.pth'], "checkpoint 'missing.pth' not found"),
    ],
)
def test_training_names_the_mistake(arguments: list, message: str, tmp_path: Path) -> None:
    line = error_of('train.py', *arguments, cwd=tmp_path)
    assert line.startswith('train.py: error: ')
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_the_launcher_says_it_in_one_line_too(tmp_path: Path) -> None:
    line = error_of('dist_train.sh', RETINANET, 2, '--cfg-options', SCRATCH, cwd=tmp_path)
    assert line.startswith("train.py: error: train_dataloader: data_root 'data/coco/' not found")


@pytest.mark.skipif(torch.cuda.is_available(), reason='is no mistake with a GPU')
def test_amp_without_a_gpu_is_named(tmp_path: Path) -> None:
    assert '--amp needs a GPU' in error_of('train.py', RETINANET, '--amp', cwd=tmp_path)


def test_pretrained_weights_that_would_load_nothing_are_refused(tmp_path: Path) -> None:
    torch.save({'model': {'fc.weight': torch.zeros(3)}}, tmp_path / 'author.pth')
    option = 'model.backbone.init_cfg.checkpoint=author.pth'
    line = error_of('train.py', RETINANET, '--cfg-options', option, cwd=tmp_path)
    assert "'author.pth' with prefix 'backbone.' (model.backbone.init_cfg) does not fit: " in line
    assert 'tools/convert_checkpoint.py' in line


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    make_coco(tmp_path / 'data/coco', images=1)
    config = write_detector(tmp_path)
    (tmp_path / 'data/coco/annotations/instances_val2017.json').unlink()
    line = error_of('train.py', config, cwd=tmp_path)
    assert "val_dataloader: ann_file 'data/coco/annotations/instances_val2017.json'" in line


def test_testing_names_missing_and_broken_checkpoints(tmp_path: Path) -> None:
    assert "checkpoint 'no.pth' not found" in error_of('test.py', RETINANET, 'no.pth', cwd=tmp_path)
    torch.save({'state_dict': {'x': torch.zeros(1000)}}, tmp_path / 'whole.pth')
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'whole.pth').read_bytes()[:2000])
    line = error_of('test.py', RETINANET, 'cut.pth', cwd=tmp_path)
    assert "checkpoint 'cut.pth' cannot be read" in line


def test_launchers_explain_themselves(tmp_path: Path) -> None:
    for tool in ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'):
        assert f'usage: tools/{tool}' in run(tool, '--help', cwd=tmp_path).stdout
        assert f'usage: tools/{tool}' in run(tool, cwd=tmp_path, ok=False).stdout
    assert (
        'GPUS must be a positive number'
        in run('dist_train.sh', RETINANET, 'all', cwd=tmp_path, ok=False).stdout
    )


def test_a_training_at_another_image_size_is_not_resumed(tmp_path: Path) -> None:
    config = ROOT / 'configs/retinanet_cmt_ti_fpn_1000i_tree_crowns.py'
    content = dict(meta=dict(epoch=0, iter=5, seed=7), message_hub={}, optimizer={})
    model = build_model(load_config(str(config)))
    torch.save({**content, 'state_dict': model.state_dict()}, tmp_path / 'iter_5.pth')
    size = ('--cfg-options', 'model.backbone.img_size=96')
    output = run('train.py', config, '--resume', 'iter_5.pth', *size, cwd=tmp_path, ok=False).stdout
    line = output.splitlines()[-1]  # after those of the log that name what was resized
    assert "cannot resume from 'iter_5.pth': backbone.stages.0.position_bias.table is" in line
    assert line.endswith('(1, 3136, 49) there and (1, 576, 9) here, as for another img_size')
