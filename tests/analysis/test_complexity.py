"""Parameters and MACs by parts: mmcontnet.analysis.complexity and its command line."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcontnet.analysis import results
from mmcontnet.analysis.complexity import Cost, complexity, count, default_shape
from mmcontnet.analysis.results import read_figures
from mmcontnet.backbones import CMT
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError
from mmcontnet.layers import PatchEncoder

from ..families import CMT as CMT_ARCH
from ..inprocess import run_tool
from ..integration.cli import ROOT

CONFIGS = ROOT / 'configs'
STAGES = ['stem', 'stage 1', 'stage 2', 'stage 3', 'stage 4']
RESNET = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
COUNTED = [name for name, entry in read_figures().items() if 'same_network_as' not in entry]


@pytest.mark.parametrize('config', COUNTED)
def test_results_file_holds_what_is_counted(config: str) -> None:
    figure = read_figures()[config]
    cfg = load_config(str(CONFIGS / config))
    assert default_shape(cfg) == tuple(figure['shape'])
    total = complexity(cfg, default_shape(cfg)).total
    assert {key: getattr(total, key) for key in figure['ours']} == figure['ours']


def test_a_convolution_and_a_linear_layer_cost_what_arithmetic_says() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ReLU(), nn.Linear(7, 3))
    result = count(model, torch.empty(1, 4, 5, 7))
    assert result.parts == {
        '0': Cost(8 * 2 * 9 + 8, 8 * 35 * 2 * 9),
        '2': Cost(7 * 3 + 3, 8 * 5 * 7 * 3),
    }


def test_fused_attention_costs_what_its_two_products_do() -> None:
    class Fused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.transpose(-2, -1)).softmax(-1) @ x

    products = 2 * 3 * 10 * 10 * 4
    for model in (Fused(), Plain()):
        total = count(model, torch.empty(1, 3, 10, 4)).total
        assert total == Cost(0, products, products)


def test_what_a_module_computes_itself_goes_to_its_own_part() -> None:
    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList([nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4)])

        def forward(self, x: Tensor) -> Tensor:
            for stage in self.stages:
                x = stage(x)
            return x @ x.mT

    model = nn.Sequential()
    model.add_module('backbone', Backbone())
    model.add_module('head', nn.Linear(3, 2))
    linear, products = Cost(4 * 4 + 4, 3 * 4 * 4), 3 * 3 * 4
    assert count(model, torch.empty(1, 3, 4)).parts == {
        'stem': Cost(0, products, products),
        'stage 1': linear,
        'stage 2': linear,
        'head': Cost(3 * 2 + 2, 3 * 3 * 2),
    }


def test_interpolating_cmts_bias_is_not_counted() -> None:
    native = count(CMT(CMT_ARCH), torch.empty(1, 3, 64, 64)).total
    other = count(CMT(CMT_ARCH), torch.empty(1, 3, 128, 64)).total
    assert other.multiply_adds - other.attention == 2 * (native.multiply_adds - native.attention)
    assert other.attention == 4 * native.attention


def test_other_backbones_are_split_into_their_stages_too() -> None:
    resnet = complexity(load_config(RESNET), (224, 224))
    assert list(resnet.parts) == [*STAGES, 'head']
    parameters = [9_536, 215_808, 1_219_584, 7_098_368, 14_964_736, 2_049_000]
    assert [part.parameters for part in resnet.parts.values()] == parameters
    # The figure that everybody knows.
    assert resnet.total.multiply_adds == pytest.approx(4.09e9, abs=1e7)
    # Cannot be built on the meta device; its norms lie beside the stages.
    config = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
    swin = complexity(load_config(config), (224, 224))
    assert list(swin.parts) == [*STAGES, 'head']
    assert swin.parts['stem'].parameters == 48 * 96 + 96 + 2 * 96
    assert swin.total.parameters == 28_288_354
    # Stages whose downsampling is kept apart come in their order, and no stages at all is said.
    convnext = load_config('mmpretrain::convnext/convnext-tiny_32xb128_in1k.py')
    assert list(complexity(convnext, (64, 64)).parts) == [*STAGES, 'head']
    vgg = load_config('mmpretrain::vgg/vgg11_8xb32_in1k.py')
    assert list(complexity(vgg, (224, 224)).parts) == ['backbone']


def test_convolutions_that_levels_share_are_counted_for_each() -> None:
    total = complexity(load_config('mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py'), (640, 640)).total
    assert total.parameters == pytest.approx(8.89e6, abs=5e3)  # as mmdet prints
    assert total.multiply_adds == pytest.approx(14.8e9, abs=5e7)


def test_second_stage_is_counted_for_all_proposals_and_the_mask_head_for_100() -> None:
    cfg = load_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    parts = complexity(cfg, (128, 128)).parts
    assert list(parts) == [*STAGES, 'neck', 'rpn_head', 'roi_head']
    boxes = 256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320)
    masks = 14 * 14 * (4 * 9 * 256 * 256 + 4 * 256 * 256) + 28 * 28 * 256 * 80
    assert parts['roi_head'].multiply_adds == 1000 * boxes + 100 * masks


def test_auxiliary_heads_cost_parameters_alone() -> None:
    cfg = load_config(str(CONFIGS / 'pspnet_cont_m_80k_cityscapes.py'))
    parts = complexity(cfg, (112, 112)).parts
    assert list(parts) == [*STAGES, 'decode_head', 'auxiliary_head']
    assert parts['decode_head'].multiply_adds > 0
    assert parts['auxiliary_head'].parameters > 0
    assert parts['auxiliary_head'].multiply_adds == 0


@pytest.mark.parametrize('channels', [1, 4])
def test_images_have_the_channels_that_the_network_takes(channels: int) -> None:
    path = str(CONFIGS / 'cont_ti_8xb64_in1k.py')
    cfg = load_config(path, {'model.backbone.in_channels': channels})
    stem = complexity(cfg, (64, 64)).parts['stem']
    assert (stem.parameters, stem.multiply_adds) == (49 * 48 * channels, 49 * 48 * channels * 32**2)


def test_models_that_cannot_be_counted_are_named() -> None:
    path = str(CONFIGS / 'cont_ti_8xb64_in1k.py')
    with pytest.raises(UserError, match='cannot be counted at 64 x 64: RuntimeError: '):
        complexity(load_config(path, {'model.head.in_channels': 1}), (64, 64))
    with pytest.raises(UserError, match="backbone: .* no arch 'xl'"):
        complexity(load_config(path, {'model.backbone.arch': 'xl'}), (64, 64))
    with pytest.raises(UserError, match='no model.backbone'):
        complexity(load_config(str(CONFIGS / '_base_/cont_sgd_200e_in1k.py')), (64, 64))
    sparse = load_config('mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py')  # without an RPN
    with pytest.raises(UserError, match='cannot be counted at 64 x 64: AttributeError: '):
        complexity(sparse, (64, 64))


@pytest.mark.parametrize('method', ['__init__', 'forward'])
def test_a_defect_of_our_own_networks_is_no_users_mistake(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(PatchEncoder, method)

    def broken(self: PatchEncoder, *args: object, **kwargs: object) -> None:
        original(self, *args, nonsense=1, **kwargs)

    monkeypatch.setattr(PatchEncoder, method, broken)
    with pytest.raises(TypeError, match='nonsense'):
        complexity(load_config('cont_ti'), (64, 64))


def test_the_tool_prints_and_writes_the_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    file = tmp_path / 'ti.json'
    arguments = ['cont_ti', '--shape', 64, 96, '--json', file]
    assert run_tool(monkeypatch, 'complexity.py', *arguments) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'cont_ti at 64 x 96:'
    parameters = read_figures()['cont_ti_8xb64_in1k.py']['ours']['parameters']
    assert lines[-1].split()[1:4] == ['total', '|', f'{parameters:,}']
    written = json.loads(file.read_text())
    assert written['shape'] == [64, 96]
    assert list(written['parts']) == [*STAGES, 'head', 'total']
    for field, total in written['parts'].pop('total').items():
        assert sum(part[field] for part in written['parts'].values()) == total
    assert list(tmp_path.iterdir()) == [file]


def test_all_fails_where_a_figure_is_not_the_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    name = 'cont_ti_8xb64_in1k.py'
    figure = read_figures()[name]
    monkeypatch.setattr(results, 'read_figures', lambda: {name: figure})
    assert run_tool(monkeypatch, 'complexity.py', '--all') is None
    row = capsys.readouterr().out.splitlines()[-1]
    counted = f'{figure["ours"]["parameters"]:,}'
    assert [cell.strip() for cell in row.split('|')][1:4] == [name, '224 x 224', counted]
    changed = {**figure, 'ours': {**figure['ours'], 'multiply_adds': 1}}
    monkeypatch.setattr(results, 'read_figures', lambda: {name: changed})
    line = run_tool(monkeypatch, 'complexity.py', '--all')
    assert str(line).startswith(f'complexity.py: error: results.yml is out of date: {name}')
