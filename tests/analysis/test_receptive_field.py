"""Effective receptive fields: mmcontnet.analysis.receptive_field and its command line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mmcontnet.analysis.receptive_field import PARTS, receptive_fields

from ..inprocess import run_tool
from ..integration.configs import ARCH

SIZE = 48


def photographs(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 3, SIZE, SIZE, generator=generator) for _ in range(count)]


class Convolutions(nn.Module):
    """Three 3x3 convolutions of ones, and below them one of stride 2."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.sum(1, keepdim=True)
        for _ in range(3):
            x = F.conv2d(x, torch.ones(1, 1, 3, 3), padding=1)
        return x, F.conv2d(x, torch.ones(1, 1, 3, 3), padding=1, stride=2)


def test_field_of_convolutions_is_the_product_of_their_kernels() -> None:
    fine, coarse = receptive_fields(Convolutions(), photographs(4), 4)
    line = np.convolve(np.convolve(np.ones(3), np.ones(3)), np.ones(3))
    expected = torch.from_numpy(np.outer(line, line) / line.sum() ** 2)
    around = slice(SIZE - 3, SIZE + 4)
    torch.testing.assert_close(fine.heat[around, around], expected)
    assert fine.stride == 1 and fine.centre == pytest.approx((SIZE, SIZE))
    offsets = torch.arange(-3, 4)
    distance = torch.hypot(offsets[:, None].double(), offsets[None].double())
    for part, radius in zip(PARTS, fine.radii, strict=True):
        assert expected[distance <= radius + 1e-4].sum() >= part
        assert expected[distance < radius - 1e-4].sum() < part
    # With stride 2 and padding 1, unit i is about pixel 2 i, and its cell ends at 2 i + 2.
    assert coarse.stride == 2 and coarse.centre == pytest.approx((SIZE - 1, SIZE - 1))
    line = np.convolve(line, np.ones(3))
    torch.testing.assert_close(
        coarse.heat.sum(0)[SIZE - 5 : SIZE + 4], torch.from_numpy(line / line.sum())
    )


class Patches(nn.Module):
    """Every unit sees all of its patch of 16 x 16, and nothing beyond."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (F.interpolate(F.avg_pool2d(x, SIZE // 3), scale_factor=SIZE // 3),)


def test_field_of_patches_does_not_depend_on_where_they_end() -> None:
    (field,) = receptive_fields(Patches(), photographs(16), 16)
    # A unit reaches 15 pixels to one side at most, and as far to the other as its place leaves.
    triangle = np.convolve(np.ones(16), np.ones(16)) / 256
    for marginal in (field.heat.sum(0), field.heat.sum(1)):
        np.testing.assert_allclose(marginal[SIZE - 15 : SIZE + 16], triangle, atol=1e-6)
    assert field.centre == pytest.approx((SIZE, SIZE))


class Opposites(nn.Module):
    """Two channels whose gradients cancel in their sum."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (torch.cat([x[:, :1], -x[:, :1]], 1),)


def test_channels_do_not_cancel() -> None:
    (field,) = receptive_fields(Opposites(), photographs(3), 3)
    assert field.heat[SIZE, SIZE] == pytest.approx(1)


def test_the_tool_writes_picture_and_figures_of_any_network(
    image: Path,
    write_backbone: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    contnet = write_backbone('cont.py', type='ConTNet', arch=ARCH, downsample='pool')
    swin = write_backbone('swin.py', type='SwinTransformer', embed_dims=12, depths=(1, 1, 1, 1))
    options = ['--images', image, '--count', 2, '--size', 96, '--stages', 0, 2]
    out = image.with_name('out.jpg')
    code = run_tool(monkeypatch, 'receptive_field.py', contnet, swin, *options, '--out', out)
    assert code is None
    assert Image.open(out).format == 'JPEG'
    results = json.loads(out.with_suffix('.json').read_text())['results']
    assert [(r['network'], r['stage'], r['stride']) for r in results] == [
        (str(network), stage, stride)
        for network in (contnet, swin)
        for stage, stride in [(0, 4), (2, 16)]
    ]
    for fine, coarse in (results[:2], results[2:]):
        assert fine['radii']['0.5'] < fine['radii']['0.95'] < coarse['radii']['0.95']
    assert '| 95% within |' in capsys.readouterr().out
