"""Curves and pictures of a run: mmcontnet.analysis.curves, .pictures and their command lines."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mmcontnet.analysis.curves import plot_curves, read_scalars
from mmcontnet.analysis.pictures import DETECTED, ZOOM, draw_pair, draw_results

from ..inprocess import run_tool


def log(work_dir: Path, started: str, records: list[dict], tail: str = '') -> None:
    """Write what mmengine's visualiser writes for one start of a run."""
    folder = work_dir / started / 'vis_data'
    folder.mkdir(parents=True)
    lines = ''.join(json.dumps(record) + '\n' for record in records)
    (folder / 'scalars.json').write_text(lines + tail)


def train(step: int, loss: float = 1.0, **more: float) -> dict:
    return dict(lr=1e-3, loss=loss, loss_cls=loss / 2, step=step, **more)


def val(step: int, value: float) -> dict:
    return {'coco/bbox_mAP': value, 'coco/bbox_mAP_50': 2 * value, 'step': step}


def test_a_resumed_run_is_joined_by_step_and_the_later_start_counts(tmp_path):
    log(tmp_path, '20260101_000000', [train(10), train(20), val(20, 0.1), train(30, 9.0)])
    log(tmp_path, '20260102_000000', [train(30, 0.5), train(40, 0.4), val(40, 0.2)])
    history = read_scalars(tmp_path)
    assert [r['step'] for r in history] == [10, 20, 20, 30, 40, 40]
    assert [r['loss'] for r in history if 'loss' in r] == [1.0, 1.0, 0.5, 0.4]


def test_a_validation_before_a_resumed_run_trains_on_loses_no_history(tmp_path):
    log(tmp_path, '20260101_000000', [train(10), train(20), train(30, 9.0), train(40, 9.0)])
    log(tmp_path, '20260102_000000', [val(0, 0.1), train(30, 0.5), val(0, 0.2)])
    # Of a run that does nothing else, too.
    log(tmp_path, '20260103_000000', [val(2, 0.3)])
    history = read_scalars(tmp_path)
    assert [r['step'] for r in history] == [10, 20, 20, 30, 30, 30]
    assert [r.get('loss', r.get('coco/bbox_mAP')) for r in history] == [1, 1, 0.1, 0.5, 0.2, 0.3]


def test_a_start_that_was_killed_before_it_logged_changes_nothing(tmp_path):
    log(tmp_path, '20260101_000000', [train(10), train(20)])
    log(tmp_path, '20260102_000000', [], tail='{"lr": 0.0')
    assert [r['step'] for r in read_scalars(tmp_path)] == [10, 20]


def test_the_half_written_last_line_of_a_killed_run_is_left_out(tmp_path):
    log(tmp_path, '20260101_000000', [train(10)], tail='{"lr": 0.001, "lo')
    assert [r['step'] for r in read_scalars(tmp_path)] == [10]


def test_validation_by_epoch_is_placed_at_its_iteration(tmp_path):
    log(
        tmp_path,
        '20260101_000000',
        [train(50, epoch=1), train(100, epoch=1), val(1, 0.1), train(200, epoch=2), val(2, 0.2)],
    )
    assert [r['step'] for r in read_scalars(tmp_path)] == [50, 100, 100, 200, 200]


def test_validation_of_a_run_without_epochs_is_placed_at_its_iteration(tmp_path):
    log(tmp_path, '20260101_000000', [train(50), val(0, 0.1), train(100), val(0, 0.2)])
    assert [r['step'] for r in read_scalars(tmp_path)] == [50, 50, 100, 100]


def test_the_command_line_writes_the_picture(tmp_path, monkeypatch):
    log(tmp_path, '20260101_000000', [train(10), train(20, 0.5), val(20, 0.1)])
    assert run_tool(monkeypatch, 'plot_log.py', tmp_path) is None
    with Image.open(tmp_path / 'curves.png') as picture:
        assert min(picture.size) > 300


def test_a_run_without_validation_has_curves_too(tmp_path):
    log(tmp_path, '20260101_000000', [train(10), train(20)])
    plot_curves(tmp_path, tmp_path / 'x.png')
    assert (tmp_path / 'x.png').exists()


def test_a_folder_without_logs_is_one_clear_error(tmp_path, monkeypatch):
    line = run_tool(monkeypatch, 'plot_log.py', tmp_path)
    assert line == f'plot_log.py: error: no training log under {tmp_path}'


@pytest.mark.parametrize(
    ('out', 'message'),
    [('curves.txt', r'--out must be one of .*\.png, .*curves.txt'), ('no/x.png', 'no folder')],
)
def test_a_picture_that_cannot_be_written_is_named(tmp_path, monkeypatch, out, message):
    log(tmp_path, '20260101_000000', [train(10)])
    line = run_tool(monkeypatch, 'plot_log.py', tmp_path, '--out', tmp_path / out)
    assert re.match(f'plot_log.py: error: {message}', line)


@pytest.mark.parametrize('written', ['curves', 'pictures'])
def test_a_picture_that_fails_halfway_leaves_nothing(tmp_path, monkeypatch, coco, written):
    def save(self: object, path: Path, **kwargs: object) -> None:
        path.write_text('half')
        raise OSError('disk full')

    monkeypatch.setattr(Figure, 'savefig', save)
    monkeypatch.setattr(Image.Image, 'save', save)
    log(tmp_path, '20260101_000000', [train(10)])
    out = tmp_path / 'out'
    out.mkdir()
    with pytest.raises(OSError, match='disk full'):
        if written == 'curves':
            plot_curves(tmp_path, out / 'curves.png')
        else:
            results = coco / 'results.bbox.json'
            draw_results(coco / 'val.json', coco, results, out, score_thr=0.7)
    assert list(out.iterdir()) == []


def test_a_pair_shows_annotations_on_the_left_and_detections_on_the_right():
    pair = draw_pair(Image.new('RGB', (40, 30)), [], [(10, 5, 20, 15)])
    pixels = np.asarray(pair)
    colour = tuple(int(DETECTED[i : i + 2], 16) for i in (1, 3, 5))
    ys, xs = np.nonzero((pixels == colour).all(-1))
    assert not pixels[:, : 40 * ZOOM].any()
    assert ys.min() == 5 * ZOOM
    assert xs.min() == pair.width - (40 - 10) * ZOOM


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two images with a box each, and detections with a high and a low score."""
    images = [dict(id=i, file_name=f'{i}.png', width=60, height=40) for i in (1, 2)]
    for image in images:
        Image.new('RGB', (60, 40)).save(tmp_path / image['file_name'])
    boxes = [dict(id=i, image_id=i, category_id=1, bbox=[5, 5, 20, 20]) for i in (1, 2)]
    (tmp_path / 'val.json').write_text(json.dumps(dict(images=images, annotations=boxes)))
    results = [
        dict(image_id=i, category_id=1, bbox=[5, 5, 20, 20], score=0.1 + 0.4 * i) for i in (1, 2)
    ]
    (tmp_path / 'results.bbox.json').write_text(json.dumps(results))
    return tmp_path


def test_every_image_gets_a_picture_and_low_scores_are_left_out(coco):
    out = coco / 'pictures'
    written = draw_results(
        coco / 'val.json', coco, coco / 'results.bbox.json', out, score_thr=0.7, rows=1
    )
    assert [path.name for path in written] == ['1.jpg', '2.jpg', 'overview.jpg']
    right_halves = [np.asarray(Image.open(path))[:, 60 * ZOOM + 10 :] for path in written[:2]]
    assert right_halves[0].max() < 64 < right_halves[1].max()


@pytest.mark.parametrize('other', ['1.jpg', 'folder/1.png', 'overview.png'])
def test_images_that_would_share_a_picture_are_refused(coco, other):
    content = json.loads((coco / 'val.json').read_text())
    content['images'][1]['file_name'] = other
    (coco / 'val.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f'and {other} would both become {Path(other).stem}.jpg'):
        draw_results(
            coco / 'val.json', coco, coco / 'results.bbox.json', coco / 'out', score_thr=0.7
        )
    assert not (coco / 'out').exists()


def test_missing_detections_are_one_clear_error(coco, monkeypatch):
    arguments = [coco / 'val.json', coco, coco / 'none.json', coco / 'out']
    line = run_tool(monkeypatch, 'draw_detections.py', *arguments)
    assert isinstance(line, str) and line.startswith('draw_detections.py: error: ')
    assert line.count('\n') == 0 and 'none.json' in line
