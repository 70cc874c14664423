"""Training and testing through the command lines, as a user types them."""

import os
import pickle
from pathlib import Path

import cv2
import pytest
import torch

from ..inprocess import run_tool
from .cli import ROOT, free_port, metrics, run, run_two
from .configs import write_classifier, write_detector, write_segmenter
from .data import make_class_folders, make_coco, make_label_maps


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    make_coco(tmp_path / 'data/coco', images=5)
    return write_detector(tmp_path)


def write_script(path: Path, line: str) -> None:
    """Write a command of one line, which stands in for one that is not there."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/usr/bin/env bash\n{line}\n')
    path.chmod(0o755)


def test_a_detector_trains_is_tested_and_drawn(detector: Path, tmp_path: Path) -> None:
    run('train.py', detector, '--work-dir', 'work', '--auto-scale-lr', cwd=tmp_path)
    options = ['--out', 'predictions.pkl', '--show-dir', 'pictures', '--work-dir', 'tested']
    plain = run('test.py', detector, 'work/epoch_1.pth', *options, cwd=tmp_path)
    assert 'coco/bbox_mAP_50' in plain.stdout
    predictions = pickle.loads((tmp_path / 'predictions.pkl').read_bytes())
    assert len(predictions) == 5
    assert all(len(p['pred_instances']['bboxes']) > 0 for p in predictions)
    pictures = sorted((tmp_path / 'pictures').glob('*.jpg'))
    assert len(pictures) == 5
    # The annotation beside the prediction.
    source = cv2.imread(str(tmp_path / 'data/coco/val2017' / pictures[0].name))
    assert cv2.imread(str(pictures[0])).shape[1] == 2 * source.shape[1]
    assert 'bbox_mAP' in run('test.py', detector, 'work/epoch_1.pth', '--tta', cwd=tmp_path).stdout


def test_a_segmenter_trains_and_is_tested(tmp_path: Path) -> None:
    make_label_maps(tmp_path / 'data/labels')
    config = write_segmenter(tmp_path)
    run('train.py', config, cwd=tmp_path)
    checkpoint = 'work_dirs/fcn/iter_3.pth'
    options = ['--out', 'maps', '--show-dir', 'pictures']
    assert 'mIoU' in run('test.py', config, checkpoint, *options, cwd=tmp_path).stdout
    for name in ('0.png', '3.png'):
        assert cv2.imread(str(tmp_path / 'maps' / name)).shape == (75, 98, 3)
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) == 4
    assert 'mIoU' in run('test.py', config, checkpoint, '--tta', cwd=tmp_path).stdout


def test_a_classifier_trains_and_is_tested(tmp_path: Path) -> None:
    make_class_folders(tmp_path / 'data/imagenet')
    config = write_classifier(tmp_path)
    run('train.py', config, cwd=tmp_path)
    checkpoint = 'work_dirs/classifier/epoch_1.pth'
    options = ['--out', 'scores.pkl', '--show-dir', 'pictures']
    assert 'accuracy/top1' in run('test.py', config, checkpoint, *options, cwd=tmp_path).stdout
    assert len(pickle.loads((tmp_path / 'scores.pkl').read_bytes())) == 8
    assert list((tmp_path / 'pictures').iterdir())
    assert 'accuracy' in run('test.py', config, checkpoint, '--tta', cwd=tmp_path).stdout


def test_two_processes_train_and_find_in_every_image_what_one_does(
    detector: Path, tmp_path: Path
) -> None:
    env = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), WORLD_SIZE='2')
    of_two = ('--launcher', 'pytorch', '--work-dir', 'work')
    trained = run_two('train.py', detector, *of_two, cwd=tmp_path, env=env)
    # Five images, two processes: three iterations each.
    assert '[1][3/3]' in trained.stdout
    arguments = ('test.py', detector, 'work/epoch_1.pth', '--out')
    two = run_two(*arguments, 'two.pkl', *of_two, cwd=tmp_path, env=env)
    one = run(*arguments, 'one.pkl', cwd=tmp_path)
    assert 'coco/bbox_mAP' in metrics(two)
    assert metrics(two) == metrics(one)
    two, one = (pickle.loads((tmp_path / f'{name}.pkl').read_bytes()) for name in ('two', 'one'))
    assert [image['img_id'] for image in two] == [1, 2, 3, 4, 5]
    for a, b in zip(two, one, strict=True):
        assert a['img_id'] == b['img_id']
        torch.testing.assert_close(a['pred_instances'], b['pred_instances'])


@pytest.mark.skipif(torch.cuda.is_available(), reason='threads of gloo')
def test_no_thread_of_the_process_group_outlives_the_training(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    address = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    for name, value in {**address, 'RANK': '0', 'LOCAL_RANK': '0', 'WORLD_SIZE': '1'}.items():
        monkeypatch.setenv(name, value)
    assert run_tool(monkeypatch, 'train.py', detector, '--launcher', 'pytorch') is None
    assert (tmp_path / 'work_dirs/retinanet/epoch_1.pth').exists()
    # A process that exits with one may abort: "terminate called without an active exception".
    names = {(task / 'comm').read_text().strip() for task in Path('/proc/self/task').iterdir()}
    assert 'pt_tcpstore_uv' not in names


def test_slurm_tasks_train(detector: Path, tmp_path: Path) -> None:
    scontrol = tmp_path / 'bin/scontrol'
    write_script(scontrol, '[[ $* == "show hostnames node" ]] && echo localhost')
    env = dict(
        PATH=f'{scontrol.parent}:{os.environ["PATH"]}',
        SLURM_NTASKS='2',
        SLURM_NODELIST='node',
        MASTER_PORT=free_port(),
    )
    trained = run_two('train.py', detector, '--launcher', 'slurm', cwd=tmp_path, env=env)
    assert '[1][3/3]' in trained.stdout


@pytest.mark.parametrize(
    ('command', 'env', 'expected'),
    [
        (
            ('dist_test.sh', 'c.py', 'w.pth', '2', '--tta'),
            dict(NNODES='3', NODE_RANK='1', MASTER_ADDR='host', PORT='99'),
            'TOOLS/_torchrun.py dist_test.sh 3 1 host 99 900 '
            '--nproc-per-node 2 TOOLS/test.py c.py w.pth --tta --launcher pytorch',
        ),
        (
            ('slurm_train.sh', 'part', 'job', 'c.py', 'work', '--amp'),
            dict(GPUS='16', SRUN_ARGS='--time=5 --x'),
            'srun -p part --job-name=job --ntasks=16 --gres=gpu:8 --ntasks-per-node=8 '
            '--cpus-per-task=5 --kill-on-bad-exit=1 --time=5 --x '
            'PYTHON -u TOOLS/train.py c.py --work-dir work --amp --launcher slurm',
        ),
        (
            ('slurm_test.sh', 'part', 'job', 'c.py', 'w.pth'),
            dict(GPUS='2', GPUS_PER_NODE='0'),
            'srun -p part --job-name=job --ntasks=2 --cpus-per-task=5 --kill-on-bad-exit=1 '
            'PYTHON -u TOOLS/test.py c.py w.pth --launcher slurm',
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else '',
)
def test_launchers_start_tools_with_their_resources(
    command: tuple[str, ...], env: dict[str, str], expected: str, tmp_path: Path
) -> None:
    write_script(tmp_path / 'python', 'echo "$*"')
    write_script(tmp_path / 'srun', 'echo "srun $*"')
    python = str(tmp_path / 'python')
    path = f'{tmp_path}:{os.environ["PATH"]}'
    out = run(*command, cwd=tmp_path, env={**env, 'PATH': path, 'PYTHON': python}).stdout
    line = out.splitlines()[-1].replace(python, 'PYTHON')
    assert line.replace(str(ROOT / 'tools'), 'TOOLS') == expected
