"""Attention maps: mmcontnet.analysis.attention_map and its command line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mmcontnet.analysis.attention_map import AttentionMap, attention_maps
from mmcontnet.backbones import CMT, ConTNet
from mmcontnet.layers import PatchEncoder, patch_encoder
from mmcontnet.ops import pad_to_multiple, window_partition

from ..families import CMT as CMT_ARCH
from ..inprocess import run_tool
from ..integration.configs import ARCH


def attention_of_everything(
    backbone: ConTNet, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> list[Tensor]:
    """Run the plain form of attention in all layers; return its weights, (windows, heads, N, N)."""
    all_weights = []

    def plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = (logits if bias is None else logits + bias).softmax(-1)
        all_weights.append(weights)
        return weights @ v

    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(patch_encoder, 'attention', plain)
        backbone(image)
    return all_weights


@pytest.mark.parametrize('pos_encoding', ['2d', 'relative'])
@pytest.mark.parametrize('place', [(0.01, 0.01), (0.62, 0.35), (0.99, 0.99)])
def test_maps_are_the_softmax_of_the_query_over_its_patch(
    pos_encoding: str, place: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    backbone = ConTNet(arch=ARCH, downsample='pool', pos_encoding=pos_encoding).eval()
    for parameter in backbone.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)  # away from uniform attention
    backbone.double()  # large logits, which are computed in another order here
    # Neither side is a multiple of a patch in any stage.
    image = torch.randn(1, 3, 90, 130).double()
    maps = attention_maps(backbone, image, place)
    expected = attention_of_everything(backbone, image, monkeypatch)
    layers = [(n, m) for n, m in backbone.named_modules() if isinstance(m, PatchEncoder)]
    assert [m.layer for m in maps] == [name for name, _ in layers]
    for i, (attention, weights) in enumerate(zip(maps, expected, strict=True)):
        layer = layers[i][1]
        torch.testing.assert_close(
            attention.weights.sum((1, 2)), torch.ones(layer.num_heads).double(), atol=1e-5, rtol=0
        )
        h, w = (-(-side // 2 ** (i // 2 + 2)) for side in image.shape[2:])
        # Row and column of every token, numbered from 1: padding is 0.
        grid = torch.stack(
            torch.meshgrid(torch.arange(1, h + 1), torch.arange(1, w + 1), indexing='ij')
        )
        tokens = window_partition(
            pad_to_multiple(grid[None], layer.tile), layer.tile, layer.order
        ).reshape(-1, layer.patch_size**2, 2)
        query = torch.tensor([int(place[1] * h) + 1, int(place[0] * w) + 1])
        ((patch, token),) = (tokens == query).all(-1).nonzero().tolist()
        left, top = round(attention.box[0] * w), round(attention.box[1] * h)
        seen = 0
        for key, (row, column) in enumerate(tokens[patch].tolist()):
            if row:
                seen += 1
                torch.testing.assert_close(
                    attention.weights[:, row - 1 - top, column - 1 - left],
                    weights[patch, :, token, key],
                )
        assert seen > 0


@pytest.mark.parametrize('size', [(64, 64), (90, 130)])
def test_cmts_maps_are_the_softmax_over_all_keys(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = CMT(CMT_ARCH).eval()
    image, place = torch.randn(1, 3, *size), (0.62, 0.35)
    calls: list[tuple] = []
    for stage in backbone.stages:
        for block in stage.blocks:
            block.attention.register_forward_pre_hook(lambda m, args: calls.append((m, args)))
    maps = attention_maps(backbone, image, place)
    assert [m.layer for m in maps][:2] == [
        'stages.0.blocks.0.attention',
        'stages.1.blocks.0.attention',
    ]
    for attention, (layer, (tokens, bias, columns)) in zip(maps, calls, strict=True):
        assert columns is None  # inference on a CPU has the whole bias
        h, w = tokens.shape[1:3]
        source = tokens
        if layer.reduce is not None:
            source = pad_to_multiple(tokens.permute(0, 3, 1, 2), layer.reduction)
            source = layer.reduce(source).permute(0, 2, 3, 1)
        q = layer.q(tokens)[0].flatten(0, 1).unflatten(1, (layer.num_heads, -1)).transpose(0, 1)
        k = layer.k(source)[0].flatten(0, 1).unflatten(1, (layer.num_heads, -1)).transpose(0, 1)
        weights = (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1)
        query = int(place[1] * h) * w + int(place[0] * w)
        torch.testing.assert_close(attention.weights.flatten(1), weights[:, query])
        rows, columns = attention.weights.shape[1:]
        assert attention.box == (0, 0, columns * layer.reduction / w, rows * layer.reduction / h)


@pytest.mark.parametrize('backbone', [ConTNet(arch=ARCH), CMT(CMT_ARCH)], ids=['ConTNet', 'CMT'])
def test_looking_changes_nothing(backbone: torch.nn.Module) -> None:
    backbone.eval()
    image = torch.randn(1, 3, 64, 64)
    before = backbone(image)
    attention_maps(backbone, image, (0.5, 0.5))
    torch.testing.assert_close(backbone(image), before, atol=0, rtol=0)
    for module in backbone.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_distance_is_the_weighted_mean_in_pixels() -> None:
    # Two keys, 25 and 75 pixels from the left, and the query on the first.
    weights = torch.tensor([[[0.25, 0.75]], [[0.75, 0.25]]])
    attention = AttentionMap('', weights, (0.0, 0.0, 1.0, 1.0))
    assert attention.distance((0.25, 0.5), (100, 40)) == pytest.approx(25.0)


def test_the_tool_writes_picture_and_weights(
    image: Path,
    write_backbone: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    config, out = write_backbone('cont.py', type='ConTNet', arch=ARCH), image.with_name('out.png')
    options = ['--pixel', 100, 20, '--size', 120, '--out', out]
    assert run_tool(monkeypatch, 'attention_map.py', image, config, *options) is None
    assert Image.open(out).format == 'PNG'
    layers = json.loads(out.with_suffix('.json').read_text())['layers']
    assert len(layers) == 8
    assert np.array(layers[1]['weights']).shape == (1, 14, 14)
    assert 'stages.3.0.encoders.1' in capsys.readouterr().out


def test_a_long_image_keeps_a_pixel_of_its_shorter_side(
    tmp_path: Path, write_backbone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new('RGB', (90, 2)).save(tmp_path / 'long.png')
    config = write_backbone('cont.py', type='ConTNet', arch=ARCH)
    options = ['--size', 8, '--out', tmp_path / 'out.png']
    status = run_tool(monkeypatch, 'attention_map.py', tmp_path / 'long.png', config, *options)
    assert status is None
    assert json.loads((tmp_path / 'out.json').read_text())['size'] == [8, 1]
