"""Networks as ONNX: mmcontnet.analysis.export and its command line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from torch import nn

from mmcontnet.analysis import export
from mmcontnet.analysis.onnx_model import OnnxModel, open_onnx
from mmcontnet.analysis.results import read_figures
from mmcontnet.builders import build_model
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError

from ..families import FAMILIES, Family
from ..inprocess import run_tool
from ..integration.configs import write_classifier, write_detector, write_narrow, write_segmenter
from ..test_configs import CONFIGS, FIRST_OF_ITS_KIND, NAMES, kind
from .objects import find_objects, spread_scores

H, W = 64, 90  # no multiples of the patches in any stage


def model_of(cfg: Config, checkpoint: Path) -> nn.Module:
    """Build the model, and save its weights."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    return model


@torch.no_grad()
def assert_computes(path: Path, expected: Callable, image: torch.Tensor | None = None) -> None:
    """Compare with PyTorch on another image than the one that the file was checked with."""
    image = torch.randn(1, 3, H, W) if image is None else image
    actual = onnxruntime.InferenceSession(path).run(None, {'image': image.numpy()})
    for a, e in zip(actual, expected(image), strict=True):
        np.testing.assert_allclose(a, e.numpy(), atol=1e-4)


def pixels() -> torch.Tensor:
    return torch.randint(256, (1, 3, H, W)).float()


def predict(model: nn.Module, image: torch.Tensor, sample: type) -> Any:
    """Predict as tools/test.py does with a checkpoint."""
    metas = dict(img_shape=(H, W), ori_shape=(H, W), scale_factor=(1.0, 1.0))
    data = dict(inputs=list(image), data_samples=[sample(metainfo=metas)])
    with torch.no_grad():
        return model.test_step(data)[0]


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
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for parameter in model.head.parameters():
        parameter.data /= 30  # no score near 0 or 1
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    options = ['--shape', H, W, '--dynamic-batch', '--out', out]
    assert run_tool(monkeypatch, 'export_onnx.py', config, checkpoint, *options) is None
    described = json.loads(out.with_suffix('.json').read_text())
    assert described['input']['shape'] == ['N', 3, H, W]
    assert [output['shape'] for output in described['outputs']] == [['N', 2]]
    assert 0 <= described['max_error'] < 1e-4
    assert 'largest difference to PyTorch' in capsys.readouterr().out
    images = torch.cat([pixels() for _ in range(3)])
    scores = torch.stack([predict(model, i[None], DataSample).pred_score for i in images])
    assert 0.01 < scores.min()
    assert_computes(out, lambda _: [scores], images)
    assert_computes(out, lambda _: [scores[:1]], images[:1])


def test_the_command_line_writes_a_file_for_each_of_several_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ['--shape', 32, 32, '--shape', 40, 48, '--raw', '--out', tmp_path / 'm.onnx']
    config = write_classifier(tmp_path)
    assert run_tool(monkeypatch, 'export_onnx.py', config, *options) is None
    for height, width in ((32, 32), (40, 48)):
        described = json.loads((tmp_path / f'm_{height}x{width}.json').read_text())
        assert described['input']['shape'] == [1, 3, height, width]
        assert (tmp_path / f'm_{height}x{width}.onnx').stat().st_size > 1000
    assert not (tmp_path / 'm.onnx').exists()


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_a_whole_segmenter_gives_labels_and_logits(mode: str, tmp_path: Path) -> None:
    cfg = load_config(str(write_segmenter(tmp_path)))
    if mode == 'slide':
        cfg.model.test_cfg = dict(mode='slide', crop_size=(80, 64), stride=(80, 40))
    cfg.model.data_preprocessor.update(mean=[100.0] * 3, std=[50.0] * 3, bgr_to_rgb=True)
    model = model_of(cfg, tmp_path / 'm.pth')
    out = tmp_path / 'm.onnx'
    options: Any = dict(dtype=torch.uint8, dynamic_batch=mode == 'slide')
    result = export.export_onnx(cfg, str(tmp_path / 'm.pth'), (H, W), out, **options)
    batch = 'N' if mode == 'slide' else 1
    shapes = [output['shape'] for output in result['outputs']]
    assert shapes == [[batch, 1, H, W], [batch, 2, H, W]]
    images = torch.cat([pixels() for _ in range(3 if mode == 'slide' else 1)]).byte()
    found = [predict(model, image[None], SegDataSample) for image in images]
    labels = torch.stack([sample.pred_sem_seg.data for sample in found])
    logits = torch.stack([sample.seg_logits.data for sample in found])
    assert len(labels.unique()) == 2
    assert_computes(out, lambda _: [labels, logits], images)


def narrow(kind: str, folder: Path) -> Config:
    """Return the config of a detector with narrow backbone, neck and heads."""
    if kind == 'retinanet':
        return load_config(str(write_detector(folder)))
    if kind == 'fcos':
        return load_config(str(write_narrow(folder, 'fcos_cont_m_fpn_1x_coco.py')))
    cfg = load_config(str(write_narrow(folder, 'mask_rcnn_cont_m_fpn_1x_cityscapes.py')))
    if kind == 'cascade_mask_rcnn':
        head = cfg.model.roi_head.bbox_head
        cfg.model.roi_head.update(
            type='CascadeRoIHead',
            num_stages=3,
            stage_loss_weights=[1, 1, 1],
            bbox_head=[dict(head, reg_class_agnostic=agnostic) for agnostic in (False, True, True)],
        )
        cfg.model.roi_head.mask_head.norm_cfg = dict(type='BN')
        cfg.model.update(type='CascadeRCNN', train_cfg=None)
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['retinanet', 'fcos', 'mask_rcnn', 'cascade_mask_rcnn'])
def test_a_whole_detector_finds_what_mmdet_finds(kind: str, tmp_path: Path) -> None:
    cfg = narrow(kind, tmp_path)
    test_cfg = cfg.model.test_cfg
    test_cfg.get('rcnn', test_cfg).update(score_thr=0.05, max_per_img=100)
    # Less than all candidates of the first levels, more than all of the last one.
    test_cfg.get('rpn', test_cfg).update(nms_pre=200)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    find_objects(model, H, W)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'm.pth')
    out = tmp_path / 'm.onnx'
    result = export.export_onnx(cfg, str(tmp_path / 'm.pth'), (H, W), out)
    masks = [['N', 28, 28]] if model.with_mask else []
    assert [output['shape'] for output in result['outputs']] == [['N', 4], ['N'], ['N'], *masks]
    assert {node.domain for node in onnx.load(out).graph.node} == {''}
    written = OnnxModel(str(out), dict(model=cfg.model, default_scope='mmdet'))
    for _ in range(3):
        image = pixels()
        expected = predict(model, image, DetDataSample).pred_instances
        found = predict(written, image, DetDataSample).pred_instances
        assert len(found) == len(expected) > 20
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
        # Where scores are nearly the same, two may swap.
        distance = (expected.bboxes[:, None] - found.bboxes).abs().amax(2)
        distance[expected.labels[:, None] != found.labels] = torch.inf
        assert distance.amin(1).max() < 0.1
        found = found[distance.argmin(1)]
        if model.with_mask:
            assert (found.masks != expected.masks).float().mean() < 1e-4
            assert 0.001 < expected.masks.float().mean()


def every_method_and_backbone() -> list[str]:
    """Return a few configs of small networks, with each method and each type of backbone."""
    figures = read_figures()
    names = [name for name in FIRST_OF_ITS_KIND if name in figures]
    names.sort(key=lambda name: figures[name]['ours']['multiply_adds'])
    left = {word for name in names for word in kind(name)}
    found = []
    while left:
        found.append(max(names, key=lambda name: len(left & {*kind(name)})))
        left -= {*kind(found[-1])}
    return found


# All of them take half an hour: ALL_CONFIGS=1 tools/run_tests.sh tests/analysis -k full_network
@pytest.mark.slow
@pytest.mark.parametrize(
    'config', NAMES if os.environ.get('ALL_CONFIGS') == '1' else every_method_and_backbone()
)
def test_the_full_network_of_a_config_is_exported_whole(config: str, tmp_path: Path) -> None:
    cfg = load_config(str(CONFIGS / config))
    detects, checkpoint, out = cfg.default_scope == 'mmdet', tmp_path / 'm.pth', tmp_path / 'm.onnx'
    if 'roi_head' in cfg.model:
        cfg.model.test_cfg.rpn.max_per_img = 100  # which takes less time than 1000
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    (find_objects if detects else spread_scores)(model, H, W)
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    del model
    result = export.export_onnx(cfg, str(checkpoint), (H, W), out)
    assert result['max_error'] < 1e-4
    found = open_onnx(str(out))[0].run(None, dict(image=pixels().numpy()))
    # Some: of the tree crowns one class, and boxes that hardly overlap.
    assert len(found[0]) > 5 if detects else found[-1].max() > 0.01


@pytest.mark.slow
def test_a_detector_may_find_nothing(tmp_path: Path) -> None:
    cfg = narrow('mask_rcnn', tmp_path)
    cfg.model.test_cfg.rcnn.score_thr = 1.0
    out = tmp_path / 'm.onnx'
    export.export_onnx(cfg, None, (H, W), out)
    written = OnnxModel(str(out), dict(model=cfg.model, default_scope='mmdet'))
    found = predict(written, pixels(), DetDataSample).pred_instances
    assert found.bboxes.shape == (0, 4)
    assert found.masks.shape == (0, H, W)


def test_a_whole_detector_takes_one_image(tmp_path: Path) -> None:
    cfg = narrow('fcos', tmp_path)
    with pytest.raises(UserError, match='^FCOS takes no dynamic batch: .* --raw takes one$'):
        export.export_onnx(cfg, None, (H, W), tmp_path / 'm.onnx', dynamic_batch=True)


def test_a_segmenter_gives_the_logits_of_every_pixel(tmp_path: Path) -> None:
    cfg = load_config(str(write_segmenter(tmp_path)))
    model = model_of(cfg, tmp_path / 'm.pth')
    out = tmp_path / 'm.onnx'
    result = export.export_onnx(cfg, str(tmp_path / 'm.pth'), (H, W), out, raw=True)
    assert [output['shape'] for output in result['outputs']] == [[1, 2, H, W]]
    metas = [dict(img_shape=(H, W), ori_shape=(H, W))]
    assert_computes(out, lambda image: [model.whole_inference(image, metas)])


def test_a_detector_gives_the_maps_of_its_neck(tmp_path: Path) -> None:
    cfg = load_config(str(write_detector(tmp_path)))
    model = model_of(cfg, tmp_path / 'm.pth')
    out = tmp_path / 'm.onnx'
    result = export.export_onnx(cfg, str(tmp_path / 'm.pth'), (H, W), out, raw=True)
    sizes = [(-(-H // stride), -(-W // stride)) for stride in (8, 16, 32, 64, 128)]
    assert [output['shape'] for output in result['outputs']] == [[1, 32, h, w] for h, w in sizes]
    assert_computes(out, model.extract_feat)
    with pytest.raises(UserError, match="m.onnx' is not of a whole network: export without --raw"):
        open_onnx(str(out))


def test_a_detector_with_other_heads_is_exported_raw_only(tmp_path: Path) -> None:
    cfg = load_config('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py')
    with pytest.raises(UserError, match='^YOLOX cannot be exported whole: .*; --raw '):
        export.export_onnx(cfg, None, (H, W), tmp_path / 'm.onnx')
    cfg = load_config('mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py')
    with pytest.raises(UserError, match='^FastRCNN cannot be exported whole: '):
        export.export_onnx(cfg, None, (H, W), tmp_path / 'm.onnx')
    cfg = narrow('retinanet', tmp_path)
    cfg.model.bbox_head.bbox_coder = dict(type='LegacyDeltaXYWHBBoxCoder')
    with pytest.raises(UserError, match='^RetinaNet cannot be exported whole: '):
        export.export_onnx(cfg, None, (H, W), tmp_path / 'm.onnx')


def test_files_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    file = tmp_path / 'm.onnx'
    with pytest.raises(UserError, match="m.onnx' not found"):
        open_onnx(str(file))
    with pytest.raises(UserError, match=' is a folder, not a file$'):
        open_onnx(str(tmp_path))
    file.write_text('nothing')
    with pytest.raises(UserError, match="m.onnx' cannot be read: .*Protobuf"):
        open_onnx(str(file))
    program = torch.onnx.export(nn.ReLU(), (torch.zeros(1),), dynamo=True)
    assert program is not None
    program.save(file)
    with pytest.raises(UserError, match="m.onnx' was not written by tools/export_onnx.py"):
        open_onnx(str(file))


def test_a_network_for_grey_images_takes_them(tmp_path: Path) -> None:
    cfg = load_config('mmpretrain::lenet/lenet5_mnist.py')
    model = model_of(cfg, tmp_path / 'm.pth')
    out = tmp_path / 'm.onnx'
    result = export.export_onnx(cfg, str(tmp_path / 'm.pth'), (32, 32), out, raw=True)
    described = {key: result['input'][key] for key in ('shape', 'mean', 'std', 'order')}
    assert described == dict(shape=[1, 1, 32, 32], mean=[33.46], std=[78.87], order='as loaded')
    image = torch.randn(1, 1, 32, 32)
    (actual,) = onnxruntime.InferenceSession(out).run(None, {'image': image.numpy()})
    with torch.no_grad():
        expected = model(image, mode='tensor')
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-4)


def test_a_file_that_differs_by_a_hundredth_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = torch.onnx.ONNXProgram.__call__

    def wrong(*inputs: Any) -> list[torch.Tensor]:
        return [1.01 * out for out in compute(*inputs)]

    monkeypatch.setattr(torch.onnx.ONNXProgram, '__call__', wrong)
    cfg = load_config(str(write_classifier(tmp_path)))
    cfg.merge_from_dict({'model.backbone.out_indices': (0,), 'model.head.in_channels': 16})
    cfg.model.head.num_classes = 1000
    checkpoint = tmp_path / 'm.pth'
    model: Any = build_model(cfg)
    nn.init.zeros_(model.head.fc.weight)  # all scores are about 0.001
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match='ONNX differs from PyTorch by'):
        export.export_onnx(cfg, str(checkpoint), (28, 28), tmp_path / 'm.onnx')
    assert set(tmp_path.iterdir()) == before


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match="no onnxruntime and no onnxscript: .* extra 'export'"):
        export.export_onnx(Config(), None, (32, 32), tmp_path / 'm.onnx')
