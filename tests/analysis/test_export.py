"""Networks as ONNX: mmcontnet.analysis.export and its command line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmcontnet.analysis import export
from mmcontnet.builders import build_model
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError

from ..families import FAMILIES, Family
from ..inprocess import run_tool
from ..integration.configs import write_classifier, write_detector, write_segmenter

H, W = 64, 90  # no multiples of the patches in any stage


def model_of(cfg: Config, checkpoint: Path) -> nn.Module:
    """Build the model, and save its weights."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    return model


@torch.no_grad()
def assert_computes(path: Path, expected: Callable) -> None:
    """Compare with PyTorch on another image than the one that the file was checked with."""
    image = torch.randn(1, 3, H, W)
    actual = onnxruntime.InferenceSession(path).run(None, {'image': image.numpy()})
    for a, e in zip(actual, expected(image), strict=True):
        np.testing.assert_allclose(a, e.numpy(), atol=1e-4)


# One network of each: an export takes seconds.
@pytest.mark.parametrize(
    'family',
    [
        pytest.param(f, id=f.type, marks=() if f.type == 'CMT' else pytest.mark.slow)
        for f in {f.type: f for f in FAMILIES}.values()
    ],
)
def test_the_command_line_exports_every_family_at_a_size_it_was_not_made_for(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    config, checkpoint, out = write_classifier(tmp_path), tmp_path / 'm.pth', tmp_path / 'm.onnx'
    cfg = load_config(str(config))
    cfg.model.backbone = dict(type=family.type, **family.kwargs)
    cfg.model.head.in_channels = family.channels[-1]
    cfg.dump(config)
    model = model_of(cfg, checkpoint)
    options = ['--shape', H, W, '--out', out]
    assert run_tool(monkeypatch, 'export_onnx.py', config, checkpoint, *options) is None
    described = json.loads(out.with_suffix('.json').read_text())
    assert described['input']['shape'] == [1, 3, H, W]
    assert [output['shape'] for output in described['outputs']] == [[1, 2]]
    assert 0 <= described['max_error'] < 1e-4
    assert 'largest difference to PyTorch' in capsys.readouterr().out
    assert_computes(out, lambda image: [model(image, mode='tensor')])


def test_a_segmenter_gives_the_logits_of_every_pixel(tmp_path: Path) -> None:
    cfg = load_config(str(write_segmenter(tmp_path)))
    model = model_of(cfg, tmp_path / 'm.pth')
    out = tmp_path / 'm.onnx'
    result = export.export_onnx(cfg, str(tmp_path / 'm.pth'), (H, W), out)
    assert [output['shape'] for output in result['outputs']] == [[1, 2, H, W]]
    metas = [dict(img_shape=(H, W), ori_shape=(H, W))]
    assert_computes(out, lambda image: [model.whole_inference(image, metas)])


def test_a_detector_gives_the_maps_of_its_neck(tmp_path: Path) -> None:
    cfg = load_config(str(write_detector(tmp_path)))
    model = model_of(cfg, tmp_path / 'm.pth')
    out = tmp_path / 'm.onnx'
    result = export.export_onnx(cfg, str(tmp_path / 'm.pth'), (H, W), out)
    sizes = [(-(-H // stride), -(-W // stride)) for stride in (8, 16, 32, 64, 128)]
    assert [output['shape'] for output in result['outputs']] == [[1, 32, h, w] for h, w in sizes]
    assert_computes(out, model.extract_feat)


def test_a_network_for_grey_images_takes_them(tmp_path: Path) -> None:
    cfg = load_config('mmpretrain::lenet/lenet5_mnist.py')
    model = model_of(cfg, tmp_path / 'm.pth')
    out = tmp_path / 'm.onnx'
    result = export.export_onnx(cfg, str(tmp_path / 'm.pth'), (32, 32), out)
    described = {key: result['input'][key] for key in ('shape', 'mean', 'std', 'order')}
    assert described == dict(shape=[1, 1, 32, 32], mean=[33.46], std=[78.87], order='as loaded')
    image = torch.randn(1, 1, 32, 32)
    (actual,) = onnxruntime.InferenceSession(out).run(None, {'image': image.numpy()})
    with torch.no_grad():
        expected = model(image, mode='tensor')
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-4)


def test_a_file_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, 'MAX_ERROR', -1.0)
    cfg = load_config(str(write_classifier(tmp_path)))
    cfg.merge_from_dict({'model.backbone.out_indices': (0,), 'model.head.in_channels': 16})
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match='ONNX differs from PyTorch by'):
        export.export_onnx(cfg, None, (28, 28), tmp_path / 'm.onnx')
    assert set(tmp_path.iterdir()) == before


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match="no onnxruntime and no onnxscript: .* extra 'export'"):
        export.export_onnx(Config(), None, (32, 32), tmp_path / 'm.onnx')
