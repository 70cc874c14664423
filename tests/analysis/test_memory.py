"""mmcontnet.analysis.memory: what a training step takes on a GPU, without one."""

import itertools
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmcontnet.analysis.memory import training_memories, training_memory
from mmcontnet.analysis.results import read_figures, read_results
from mmcontnet.backbones.base import SequentialStage
from mmcontnet.engine import load_config
from mmcontnet.layers.cmt import InvertedResidualFFN
from mmcontnet.layers.inline import PLAIN_TENSORS

from ..inprocess import run_tool
from ..integration.cli import ROOT

BF16 = torch.bfloat16
SIDE, BATCH = 10, 4
PIXELS = BATCH * SIDE * SIDE


@MODELS.register_module()
class Convolution(BaseModel):
    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1).requires_grad_(not frozen)
        self.head = nn.Conv2d(8, 2, 1, bias=False)

    def forward(self, inputs: Tensor, data_samples: Any, mode: str) -> Tensor:
        torch.empty(99, requires_grad=True).square()  # whose graph ends here
        return self.head(self.conv(inputs).relu())


@MODELS.register_module()
class Attention(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(3, 24, 1, bias=False)

    def forward(self, inputs: Tensor, data_samples: Any, mode: str) -> Tensor:
        q, k, v = self.qkv(inputs).flatten(2).mT[:, None].chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)


@MODELS.register_module()
class FeedForward(BaseModel):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = InvertedResidualFFN(3, width)

    def forward(self, inputs: Tensor, data_samples: Any, mode: str) -> Tensor:
        return self.ffn(inputs)


@pytest.mark.parametrize(
    ('model', 'dtype', 'expected'),
    [
        # Weights, gradients and momentum; the image and the output of ReLU.
        (dict(type='Convolution'), torch.float32, 3 * (3 * 8 + 8 + 8 * 2) * 4 + PIXELS * 11 * 4),
        # Halves of image, output and weights; that of a bias is not needed again.
        (
            dict(type='Convolution'),
            BF16,
            3 * (3 * 8 + 8 + 8 * 2) * 4 + PIXELS * 11 * 2 + (3 * 8 + 8 * 2) * 2,
        ),
        # Frozen: no gradient, momentum or image, and no ReLU's output for its own sake.
        (
            dict(type='Convolution', frozen=True),
            torch.float32,
            (3 * 8 + 8 + 3 * 8 * 2) * 4 + PIXELS * 8 * 4,
        ),
        # Image, queries with keys and values, the output, and a sum for each query.
        (dict(type='Attention'), torch.float32, 3 * 72 * 4 + PIXELS * (3 + 24 + 8) * 4),
    ],
)
def test_what_is_kept_is_what_arithmetic_says(
    model: dict[str, Any], dtype: torch.dtype, expected: int
) -> None:
    found = training_memory(Config(dict(model=model)), (SIDE, SIDE), BATCH, dtype)
    sums = 0
    if model['type'] == 'Attention':  # the kernel pads the queries to 32
        sums = BATCH * -(-SIDE * SIDE // 32) * 32 * 4 + 16  # and the state of a random generator
    assert found == expected + sums
    assert not any('Fake' in kind.__name__ for kind in PLAIN_TENSORS)


@MODELS.register_module()
class Blocks(BaseModel):
    def __init__(self, with_cp: bool) -> None:
        super().__init__()
        widths = [(3, 8, 4), (4, 16, 5), (5, 9, 2)]
        self.stage = SequentialStage(*(self.block(*sizes) for sizes in widths))
        self.stage.with_cp = with_cp

    def block(self, *sizes: int) -> nn.Module:
        first, second = (nn.Conv2d(*pair, 1, bias=False) for pair in itertools.pairwise(sizes))
        return nn.Sequential(first, nn.ReLU(), second)

    def forward(self, inputs: Tensor, data_samples: Any, mode: str) -> Tensor:
        return self.stage(inputs)


@pytest.mark.parametrize(
    ('with_cp', 'channels'), [(False, 3 + 8 + 4 + 16 + 5 + 9), (True, 3 + 4 + 5 + 16)]
)
def test_with_cp_keeps_the_inputs_of_blocks_and_the_largest_block(
    with_cp: bool, channels: int
) -> None:
    model = dict(type='Blocks', with_cp=with_cp)
    found = training_memory(Config(dict(model=model)), (SIDE, SIDE), BATCH)
    weights = 3 * 8 + 8 * 4 + 4 * 16 + 16 * 5 + 5 * 9 + 9 * 2
    assert found == (3 * weights + PIXELS * channels) * 4


@pytest.mark.parametrize('dtype', [torch.float32, BF16])
def test_cmt_keeps_two_wide_maps_of_its_feed_forward_network(dtype: torch.dtype) -> None:
    narrow, wide = (
        training_memory(
            Config(dict(model=dict(type='FeedForward', width=n))), (SIDE, 8 * SIDE), BATCH, dtype
        )
        for n in (16, 48)
    )
    assert round((wide - narrow) / (32 * 8 * PIXELS * dtype.itemsize), 1) == 2.0


@pytest.mark.parametrize(
    ('method', 'config'),
    [
        ('retinanet', 'retinanet_r50_fpn_1x_coco'),
        ('faster_rcnn', 'faster-rcnn_r101_fpn_1x_coco'),
        ('mask_rcnn', 'mask-rcnn_r50_fpn_1x_coco'),
        ('cascade_rcnn', 'cascade-rcnn_r50_fpn_1x_coco'),
        ('cascade_rcnn', 'cascade-mask-rcnn_x101-64x4d_fpn_1x_coco'),
    ],
)
def test_mmdets_published_figures_are_those_and_the_losses(method: str, config: str) -> None:
    models = load(Path(mmdet.__file__).parent / f'.mim/configs/{method}/metafile.yml')['Models']
    (entry,) = (e for e in models if Path(e['Config']).stem == config)
    found = training_memory(load_config(f'mmdet::{method}/{config}.py'), (800, 1344), 2) / 1e9
    assert 0.6 < entry['Metadata']['Training Memory (GB)'] - found < 1.2


CONFIGS = {k: e for f in read_results()['families'].values() for k, e in f['configs'].items()}


def test_every_detector_and_segmenter_has_a_figure() -> None:
    dense = {name for name in read_figures() if not name.endswith(('_in1k.py', '_cifar10.py'))}
    for name in dense:
        entry = CONFIGS[CONFIGS[name].get('same_network_as', name)]
        scope = load_config(str(ROOT / 'configs' / name)).default_scope
        assert ('memory' in entry) == (scope != 'mmpretrain'), name


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'fcos_cont_m_fpn_1x_coco.py',
        'mask_rcnn_cmt_s_fpn_1x_coco.py',
        'cascade_rcnn_cotnet50_fpn_1x_coco.py',
        'retinanet_resnet_acmix50_fpn_1x_coco.py',
        'retinanet_san_acmix19_fpn_1x_coco.py',
        'fpn_pvt_acmix_t_40k_ade20k.py',
        'upernet_swin_acmix_t_160k_ade20k.py',
    ],
)
def test_the_results_file_holds_what_is_estimated(name: str) -> None:
    cfg = load_config(str(ROOT / 'configs' / name))
    shape = tuple(cfg.get('crop_size') or CONFIGS[name]['shape'])
    found = training_memories(cfg, shape, 2)
    assert {key: round(size / 2**30, 1) for key, size in found.items()} == CONFIGS[name]['memory']


@pytest.mark.slow
@pytest.mark.parametrize('name', ['cont_m', 'cmt_ti', 'cotnet50', 'resnet50'])
def test_the_readmes_table_holds_what_is_estimated(name: str) -> None:
    results = read_results()
    backbones = {k: b for f in results['families'].values() for k, b in f['backbones'].items()}
    expected = backbones.get(name) or results['references'][f'{name}_8xb32_in1k']
    cfg = load_config(name if name in backbones else f'{name}_8xb32_in1k')
    cfg.model.head = cfg.model.neck = None
    cfg.model.backbone.update(out_indices=(0, 1, 2, 3))
    if cfg.model.backbone.type == 'ConTNet':
        cfg.model.backbone.update(downsample='pool')
    found = training_memory(cfg, (800, 1280), 2, BF16)
    assert round(found / 2**30, 1) == expected['memory']


def test_the_tool_tells_it_beside_the_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run_tool(monkeypatch, 'complexity.py', 'cont_ti', '--shape', '64', '64', '--memory', '2')
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == (
        'training with 2 images on a GPU: 0.1 GiB in fp32 and 0.1 GiB in half precision; '
        '0.1 GiB and 0.1 GiB with model.backbone.with_cp=True; and more for the losses'
    )
