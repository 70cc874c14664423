"""Predictions on pictures: mmcontnet.analysis.prediction and tools/demo.py."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from mmcontnet.analysis.prediction import Predictor
from mmcontnet.builders import build_model
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError

from ..inprocess import run_tool
from ..integration.configs import (
    write_classifier,
    write_detector,
    write_narrow,
    write_segmenter,
)


def save_checkpoint(config: Path, *classes: str) -> Path:
    """Save random weights as a training does, with the names of the classes."""
    torch.manual_seed(0)
    model = build_model(load_config(str(config)))
    meta = dict(classes=classes, palette=[(255, 0, 0)] * len(classes))
    path = config.with_suffix('.pth')
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=meta)), path)
    return path


def predict(config: Path, image: Path, *classes: str, score_thr: float = 0.0) -> list[dict]:
    """Predict and draw with random weights; the picture must differ from the image."""
    predictor = Predictor(
        load_config(str(config)), str(save_checkpoint(config, *classes)), 'cpu', score_thr
    )
    seen, picture = predictor(image)
    before, after = np.asarray(Image.open(image)), np.asarray(picture)
    assert before.shape == after.shape
    assert bool(seen) == bool((before != after).any())
    json.dumps(seen)
    return seen


def mask_rcnn(folder: Path) -> Path:
    return write_narrow(folder, 'mask_rcnn_cont_m_fpn_1x_coco.py')


@pytest.mark.parametrize('write', [write_detector, mask_rcnn])
def test_a_detector_tells_boxes_within_the_image_and_masks_if_it_has_any(
    write: Callable[[Path], Path], tmp_path: Path, image: Path
) -> None:
    config = write(tmp_path)
    num_classes = 1 if write is mask_rcnn else 80
    seen = predict(config, image, *(f'class {i}' for i in range(num_classes)))
    assert 0 < len(seen) <= 10
    scores = [instance['score'] for instance in seen]
    assert scores == sorted(scores, reverse=True)
    for instance in seen:
        x1, y1, x2, y2 = instance['box']
        assert 0 <= x1 <= x2 <= 120 and 0 <= y1 <= y2 <= 90
        assert instance['label'].startswith('class ')
        assert ('mask' in instance) is (write is mask_rcnn)
        if 'mask' in instance:
            assert rle.decode(instance['mask']).shape == (90, 120)


def test_a_note_of_the_data_that_is_none_is_said(tmp_path: Path) -> None:
    config = write_detector(tmp_path)
    checkpoint = save_checkpoint(config)
    torch.save({**torch.load(checkpoint), 'meta': dict(dataset_meta=['a'])}, checkpoint)
    with pytest.raises(UserError, match=r"^checkpoint '.*': .*(list|str|dict)"):
        Predictor(load_config(str(config)), str(checkpoint), 'cpu', 0.0)


def test_low_scores_are_left_out(tmp_path: Path, image: Path) -> None:
    config = write_detector(tmp_path)
    classes = [f'class {i}' for i in range(80)]
    assert predict(config, image, *classes, score_thr=1.0) == []


def test_a_segmenter_tells_the_shares_of_the_classes(tmp_path: Path, image: Path) -> None:
    seen = predict(write_segmenter(tmp_path), image, 'ground', '\x1b[31mthing')
    assert {area['label'] for area in seen} <= {'ground', r"'\x1b[31mthing'"}
    assert sum(area['share'] for area in seen) == pytest.approx(1)
    assert seen[0]['share'] >= 0.5


def test_a_classifier_tells_the_best_classes(tmp_path: Path, image: Path) -> None:
    seen = predict(write_classifier(tmp_path), image, 'cat', 'dog')
    assert {best['label'] for best in seen} == {'cat', 'dog'}
    assert seen[0]['score'] > seen[1]['score']
    assert seen[0]['score'] + seen[1]['score'] == pytest.approx(1)


def test_the_command_line_draws_an_image_and_a_folder(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in ('a.png', 'a.jpg'):
        Image.open(image).save(folder / name)
    config = write_segmenter(tmp_path)
    checkpoint = save_checkpoint(config, 'ground', 'thing')
    out = tmp_path / 'pictures'
    assert run_tool(monkeypatch, 'demo.py', folder, config, checkpoint, '--out', out) is None
    names = ['a.jpg', 'a.jpg.json', 'a.png', 'a.png.json']
    assert sorted(p.name for p in out.iterdir()) == names
    for name in ('a.png', 'a.jpg'):
        content = json.loads((out / f'{name}.json').read_text())
        assert content['image'] == str(folder / name) and content['predictions']
    said = capsys.readouterr().out
    assert 'backend' not in said  # what mmengine prints of the file that it loads
    (row,) = [row for row in said.splitlines() if str(out / 'a.jpg') in row]
    assert re.search(r'(ground|thing) [01]\.\d\d', row)

    assert run_tool(monkeypatch, 'demo.py', image, config, checkpoint) is None
    assert (tmp_path / 'image_demo.png').exists() and (tmp_path / 'image_demo.png.json').exists()
