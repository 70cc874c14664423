"""An ONNX file is tested through the config's pipeline and metrics, as its checkpoint is."""

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from mmcontnet.analysis.export import export_onnx
from mmcontnet.analysis.prediction import Predictor
from mmcontnet.builders import build_model
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError

from ..analysis.objects import find_objects
from .cli import ROOT, metrics, run
from .configs import write_classifier, write_detector, write_segmenter
from .data import make_class_folders, make_coco, make_label_maps

pytestmark = pytest.mark.slow


def write_files(
    config: Path, shape: tuple[int, int], change: Callable | None = None, **dataset_meta: Sequence
) -> None:
    """Write m.pth, with random weights, and m.onnx beside a config."""
    cfg = load_config(str(config))
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if change is not None:
        change(model)
    meta = dict(dataset_meta=dataset_meta) if dataset_meta else {}
    torch.save(dict(state_dict=model.state_dict(), meta=meta), config.with_name('m.pth'))
    export_onnx(cfg, str(config.with_name('m.pth')), shape, config.with_name('m.onnx'))


def assert_pictures_are_equal(config: Path, image: Path) -> None:
    """Compare what tools/demo.py sees and draws."""
    (pth, picture), (onnx, other) = (
        Predictor(load_config(str(config)), str(config.with_name(f'm.{kind}')), 'cpu', 0.1)(image)
        for kind in ('pth', 'onnx')
    )
    assert [instance['label'] for instance in pth] == [instance['label'] for instance in onnx]
    pixels, picture, other = (np.asarray(p) for p in (Image.open(image), picture, other))
    assert (pixels != picture).mean() > 0.01
    assert (picture != other).mean() < 1e-3


def assert_metrics_are_equal(config: Path, name: str, *options: str) -> None:
    tested = [
        metrics(run('test.py', config, f'm.{kind}', *options, cwd=config.parent))
        for kind in ('pth', 'onnx')
    ]
    assert tested[0][name] > 0.1
    assert tested[1] == pytest.approx(tested[0], abs=1e-3)


def assert_the_example_finds_the_same(config: Path) -> None:
    """Compare the example of docs/deployment.md, without PyTorch, with tools/demo.py."""
    page = (ROOT / 'docs/deployment.md').read_text()
    (text,) = re.findall(r'```python\n(# detect\.py\n.+?)```', page, re.DOTALL)
    assert text.count('\n') <= 40
    images, pictures = config.with_name('images'), config.with_name('pictures')
    images.mkdir()
    for path in config.parent.glob('data/coco/val2017/*'):
        Image.open(path).resize((120, 80)).save(images / f'{path.stem}.png')
    # A package that is None in sys.modules cannot be imported.
    absent = ('torch', 'torchvision', 'PIL', 'mmcontnet', 'mmengine', 'mmcv', 'mmdet', 'onnx')
    text = f'import sys\nsys.modules.update(dict.fromkeys({absent}))\n{text}'
    command = [sys.executable, '-c', text, config.with_name('m.onnx'), images, pictures]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = [line.split() for line in done.stdout.splitlines()]
    predictor = Predictor(load_config(str(config)), str(config.with_name('m.onnx')), 'cpu', 0.3)
    expected = []
    for image in sorted(images.iterdir()):
        seen = predictor(image)[0]
        expected += [(image.name, s['label'], s['score'], *s['box']) for s in seen]
        drawn = np.asarray(Image.open(pictures / image.name), int) - np.asarray(Image.open(image))
        assert np.abs(drawn).max() > 99
    assert len(found) > 10
    assert [line[:2] for line in found] == [list(line[:2]) for line in expected]
    values = [np.array([line[2:] for line in lines], float) for lines in (found, expected)]
    np.testing.assert_allclose(*values, atol=0.06)


def assert_objects_are_equal(a: dict, b: dict) -> None:
    """Compare what tools/test.py --out writes of an image."""
    assert a['img_id'] == b['img_id']
    a, b = a['pred_instances'], b['pred_instances']
    assert len(a['bboxes']) == 10
    np.testing.assert_allclose(a['bboxes'], b['bboxes'], atol=0.5)
    np.testing.assert_allclose(a['scores'], b['scores'], atol=1e-3)
    np.testing.assert_array_equal(a['labels'], b['labels'])


def assert_the_smaller_file_computes_nearly_the_same(config: Path) -> None:
    """Run the second example of docs/deployment.md, and tools/test.py on what it writes."""
    page = (ROOT / 'docs/deployment.md').read_text()
    (text,) = re.findall(r'```python\n(# quantize\.py\n.+?)```', page, re.DOTALL)
    files = [config.with_name(name) for name in ('m.onnx', 'small.onnx')]
    subprocess.run([sys.executable, '-c', text, *files], check=True)
    assert files[1].stat().st_size < 0.8 * files[0].stat().st_size
    image = np.random.default_rng(0).integers(256, size=(1, 3, 224, 224)).astype('f4')
    scores, other = (
        onnxruntime.InferenceSession(file).run(['scores'], dict(image=image))[0] for file in files
    )
    np.testing.assert_allclose(other, scores, atol=0.05)
    assert (other != scores).any()
    run('test.py', config, 'small.onnx', cwd=config.parent)


def test_a_classifier_is_as_accurate(tmp_path: Path) -> None:
    make_class_folders(tmp_path / 'data/imagenet')
    config = write_classifier(tmp_path)
    write_files(config, (224, 224), classes=('a', 'b'))
    assert_pictures_are_equal(config, next(tmp_path.glob('data/imagenet/val/*/*')))
    assert_metrics_are_equal(config, 'accuracy/top1')
    assert_the_smaller_file_computes_nearly_the_same(config)
    text = config.read_text()
    config.write_text(text.replace('num_classes=2', 'num_classes=3'))
    line = run('test.py', config, 'm.onnx', cwd=tmp_path, ok=False).stdout.splitlines()[-1]
    assert line.endswith("'m.onnx' is of another network (classes: 2; of the config: 3)")
    config.write_text(f'{text}model["backbone"]["arch"]["depths"] = (1, 1, 1, 2)')
    with pytest.raises(UserError, match=r"m.onnx' is of another network \(parameters: "):
        Predictor(load_config(str(config)), str(tmp_path / 'm.onnx'), 'cpu', 0.1)


def test_a_segmenter_has_the_same_iou(tmp_path: Path) -> None:
    make_label_maps(tmp_path / 'data/labels')
    config = write_segmenter(tmp_path)
    text = config.read_text().replace('scale=(64, 64)', 'scale=(80, 64)')
    config.write_text(
        text.replace("mode='whole'", "mode='slide', crop_size=(64, 64), stride=(16, 16)")
    )
    write_files(config, (64, 80), classes=('ground', 'thing'), palette=[[0, 0, 0], [255, 0, 0]])
    assert_pictures_are_equal(config, next(tmp_path.glob('data/labels/img/*')))
    assert_metrics_are_equal(config, 'mIoU')


def test_a_detector_finds_the_same_boxes(tmp_path: Path) -> None:
    make_coco(tmp_path / 'data/coco')
    config = write_detector(tmp_path)
    padding = config.rename(tmp_path / 'padding.py')
    config.write_text(padding.read_text().replace('98), keep_ratio=True', '98), keep_ratio=False'))
    names = [f'kind{i}' for i in range(80)]
    write_files(config, (98, 168), lambda model: find_objects(model, 98, 168), classes=names)
    assert_the_example_finds_the_same(padding)
    photo = next(tmp_path.glob('data/coco/val2017/*'))
    assert_pictures_are_equal(config, photo)
    # PyTorch pads these to multiples of 112, as within the file.
    narrower = tmp_path / 'narrower.py'
    narrower.write_text(config.read_text().replace('(168, 98)', '(150, 98)'))
    for kind in ('pth', 'onnx'):
        run('test.py', narrower, f'm.{kind}', '--out', f'{kind}.pkl', cwd=tmp_path)
    pth, onnx = (pickle.loads((tmp_path / f'{kind}.pkl').read_bytes()) for kind in ('pth', 'onnx'))
    for a, b in zip(pth, onnx, strict=True):
        assert_objects_are_equal(a, b)
    run('test.py', config, 'm.pth', '--out', 'pth.pkl', cwd=tmp_path)
    said = run(
        'test.py', config, 'm.onnx', '--out', 'onnx.pkl', '--show-dir', 'shown', cwd=tmp_path
    )
    assert 'checkpoints of other classes: m.onnx: kind0, kind1, ' in said.stdout
    assert list(tmp_path.glob('shown/**/*.jpg'))
    pth, onnx = (pickle.loads((tmp_path / f'{kind}.pkl').read_bytes()) for kind in ('pth', 'onnx'))
    # From now on, every second of these is right.
    file = tmp_path / 'data/coco/annotations/instances_val2017.json'
    content = json.loads(file.read_text())
    content['annotations'] = []
    for a, b in zip(pth, onnx, strict=True):
        assert_objects_are_equal(a, b)
    for image in pth:
        found = image['pred_instances']
        for (x1, y1, x2, y2), label in zip(
            found['bboxes'][::2].tolist(), found['labels'][::2].tolist(), strict=True
        ):
            content['annotations'].append(
                dict(
                    id=len(content['annotations']) + 1,
                    image_id=image['img_id'],
                    category_id=content['categories'][label]['id'],
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                    iscrowd=0,
                )
            )
    file.write_text(json.dumps(content))
    assert_metrics_are_equal(config, 'coco/bbox_mAP')
    config.write_text(config.read_text().replace('(168, 98)', '(170, 98)'))
    line = run('test.py', config, 'm.onnx', cwd=tmp_path, ok=False).stdout.splitlines()[-1]
    takes = 'takes images of 3 x 98 x 168 (channels, height, width) or smaller ones, got one of '
    assert line.endswith(f"'m.onnx' {takes}3 x 98 x 170")
    predictor = Predictor(load_config(str(config)), str(tmp_path / 'm.onnx'), 'cpu', 0.1)
    with pytest.raises(UserError, match=f"^image '{photo}': file .*{re.escape(takes)}"):
        predictor(photo)
