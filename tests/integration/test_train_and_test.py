"""Training and testing through the command lines, as a user types them."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from .cli import ROOT, free_port, run
from .configs import write_classifier, write_detector, write_segmenter
from .data import make_class_folders, make_coco, make_label_maps


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    make_coco(tmp_path / 'data/coco', images=5)
    return write_detector(tmp_path)


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


@pytest.mark.slow
def test_two_processes_train_and_test(detector: Path, tmp_path: Path) -> None:
    env = {'PORT': free_port()}
    trained = run('dist_train.sh', detector, 2, '--work-dir', 'work', cwd=tmp_path, env=env)
    # Five images, two processes: three iterations each.
    assert '[1][3/3]' in trained.stdout
    tested = run(
        'dist_test.sh', detector, 'work/epoch_1.pth', 2, '--out', 'p.pkl', cwd=tmp_path, env=env
    )
    assert 'bbox_mAP' in tested.stdout
    assert len(pickle.loads((tmp_path / 'p.pkl').read_bytes())) == 5


@pytest.mark.slow
def test_no_thread_of_the_process_group_outlives_the_training(
    detector: Path, tmp_path: Path
) -> None:
    # A process that exits with one may abort: "terminate called without an active exception".
    script = f"""
import runpy, sys
from pathlib import Path
sys.argv = ['train.py', {str(detector)!r}, '--launcher', 'pytorch']
runpy.run_path({str(ROOT / 'tools/train.py')!r}, run_name='__main__')
names = [(task / 'comm').read_text().strip() for task in Path('/proc/self/task').iterdir()]
assert 'pt_tcpstore_uv' not in names, names
"""
    env = dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1')
    subprocess.run(
        [sys.executable, '-c', script],
        check=True,
        cwd=tmp_path,
        env={**os.environ, **env, 'MASTER_PORT': free_port()},
    )


@pytest.mark.slow
def test_a_classifier_has_the_same_gradients_in_two_processes_as_in_one(tmp_path: Path) -> None:
    script = Path(__file__).with_name('ddp_gradients.py')

    subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2']
        + ['--master-port', free_port(), str(script)],
        check=True,
        cwd=tmp_path,
    )
    assert float((tmp_path / 'difference.txt').read_text()) < 1e-5
