"""Backbones with their weights, and photographs as their input: mmcontnet.analysis.inspection."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from PIL import Image
from torch import nn

from mmcontnet.analysis.inspection import (
    build_backbone,
    cut_square,
    estimate_norm_statistics,
    find_images,
    image_channels,
    image_reader,
    input_normalisation,
    to_input,
    to_picture,
)
from mmcontnet.analysis.report import quiet_tool, replacing
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError

ROOT = Path(__file__).parents[2]
RESNET = dict(type='ResNet', depth=18, base_channels=4, out_indices=(0, 1, 2, 3))


def config(scope: str, **backbone: object) -> Config:
    return Config(dict(default_scope=scope, model=dict(backbone=backbone)))


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_backbones_of_every_package_are_built_with_the_stages_asked_for(scope: str) -> None:
    backbone = build_backbone(config(scope, type='ResNet', depth=18), stages=(1, 3))
    strides = [64 // out.shape[-1] for out in backbone(torch.zeros(1, 3, 64, 64))]
    assert strides == [8, 32]
    assert not backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())


def test_residual_blocks_of_untrained_networks_are_no_identities() -> None:
    backbone = build_backbone(config('mmdet', **RESNET, init_cfg=dict(type='Pretrained')))
    assert backbone.layer1[0].bn2.weight.abs().sum() > 0


def test_weights_come_from_the_checkpoint_of_the_whole_model(tmp_path: Path) -> None:
    source = build_backbone(config('mmdet', **RESNET))
    state = {f'backbone.{name}': value for name, value in source.state_dict().items()}
    torch.save(dict(state_dict=dict(state, other=torch.zeros(1))), tmp_path / 'model.pth')
    # A shorter one takes what it needs.
    copy = build_backbone(
        config('mmdet', **RESNET, num_stages=4), str(tmp_path / 'model.pth'), stages=(1, 2)
    )
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(copy(image), source(image)[1:3])


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (dict(type='no.Net'), "no 'no.Net' is registered"),
        (dict(type='ResNet', depth=19), 'invalid depth 19'),
    ],
)
def test_a_backbone_that_cannot_be_built_is_named(backbone: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(config('mmdet', **backbone))


def test_norm_statistics_are_those_of_the_images() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    images = [3 + 2 * torch.randn(1, 3, 32, 32) for _ in range(3)]
    estimate_norm_statistics(module, images)
    assert not module.training
    out = module(torch.cat(images))
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(4), atol=0.01, rtol=0)


@pytest.mark.parametrize('to_rgb', [True, False])
def test_input_is_what_the_data_preprocessor_makes_of_the_image(to_rgb: bool) -> None:
    settings = dict(mean=[100.0, 110.0, 120.0], std=[50.0, 60.0, 70.0], bgr_to_rgb=to_rgb)
    pixels = np.random.default_rng(0).integers(256, size=(5, 7, 3), dtype=np.uint8)
    # OpenMMLab reads images as BGR.
    bgr = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)
    expected = ImgDataPreprocessor(**settings)(dict(inputs=[bgr]))['inputs']
    cfg = Config(dict(model=dict(data_preprocessor=settings)))
    torch.testing.assert_close(to_input(pixels[..., ::-1], cfg), expected)


@pytest.mark.parametrize('bands', [1, 4])
@pytest.mark.parametrize('deep', [False, True])
def test_other_images_are_read_as_the_test_pipeline_does(
    bands: int, deep: bool, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(8, 12, bands), dtype=np.uint8)
    pixels = pixels.astype(np.uint16) * 256 if deep else pixels
    cv2.imwrite(str(tmp_path / 'a.png'), pixels)
    settings = dict(mean=[100.0] * bands, std=[50.0] * bands)
    step = dict(type='LoadImageFromFile', color_type='unchanged')
    cfg = Config(
        dict(data_preprocessor=settings, test_dataloader=dict(dataset=dict(pipeline=[step])))
    )
    found = image_reader(cfg)(tmp_path / 'a.png')
    assert np.array_equal(np.atleast_3d(found), pixels)
    expected = (torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] - 100) / 50
    torch.testing.assert_close(to_input(found, cfg), expected)
    assert cut_square(found, 4).shape == (4, 4, bands)
    picture = to_picture(found)
    assert picture.shape == (8, 12, 3) and picture.dtype == np.uint8
    assert deep or np.array_equal(picture, pixels[..., [2, 1, 0] if bands > 1 else [0, 0, 0]])
    assert np.ptp(picture) > 200


def test_channels_of_images_are_those_before_a_stem_that_moves_pixels_into_channels() -> None:
    small = dict(widen_factor=0.25, deepen_factor=0.33)
    assert image_channels(build_backbone(config('mmdet', type='CSPDarknet', **small))) == 3
    assert image_channels(nn.Conv2d(4, 8, 3)) == 4


@pytest.mark.parametrize('name', ['cont_m_8xb64_in1k.py', 'retinanet_cont_m_fpn_1x_coco.py'])
def test_normalisation_is_found_where_each_package_keeps_it(name: str) -> None:
    mean, std, order = input_normalisation(load_config(str(ROOT / 'configs' / name)), 3)
    assert (mean, std) == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    assert order == 'RGB'


def test_images_are_found_in_folders_and_what_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no images'):
        find_images([tmp_path])
    for name in ('b.png', 'a.JPG'):
        Image.new('L', (4, 4)).save(tmp_path / name, format='PNG')
    (tmp_path / 'notes.txt').write_text('no image')
    found = find_images([tmp_path])
    assert [path.name for path in found] == ['a.JPG', 'b.png']
    with pytest.raises(UserError, match=r"none.png' not found"):
        find_images([tmp_path / 'none.png'])


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / 'file.txt'
    with pytest.raises(UserError, match=r"cannot write '.*file.txt': disk full"):
        with replacing(path) as partial:
            partial.write_text('half')
            raise OSError('disk full')
    assert list(tmp_path.iterdir()) == []
    with replacing(path) as partial:
        partial.write_text('whole')
    assert list(tmp_path.iterdir()) == [path]


def test_warnings_of_packages_stay_out_of_a_tools_output_and_others_do_not() -> None:
    with warnings.catch_warnings(record=True) as shown, quiet_tool('demo.py'):
        for module in ('mmseg.models.losses', 'mmengine', 'mmcontnet.checkpoint', 'configs'):
            warnings.warn_explicit('text', UserWarning, f'{module}.py', 1, module)
    assert [warning.filename for warning in shown] == ['mmcontnet.checkpoint.py', 'configs.py']
