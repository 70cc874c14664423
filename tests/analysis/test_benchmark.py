"""Throughput and peak memory side by side: mmcontnet.analysis.benchmark and its command line."""

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmcontnet.analysis.benchmark import (
    DTYPES,
    MEMORY_FORMATS,
    STEPS,
    OnnxStepper,
    Settings,
    Stepper,
    benchmark,
    peak_memory,
)
from mmcontnet.analysis.networks import Network, build_network
from mmcontnet.builders import build_model
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError

from ..inprocess import run_tool
from ..integration.cli import ROOT
from ..integration.configs import write_classifier

TINY = Settings(shape=(8, 12), batch_size=4, warmup=1, rounds=5)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(240, 5))


def test_training_step_reaches_every_parameter_and_leaves_it_as_it_was() -> None:
    network = small()
    before = [p.clone() for p in network.parameters()]
    stepper = Stepper(network, TINY)
    stepper.train()
    assert network.training
    assert network[1].num_batches_tracked == 1
    for parameter, old in zip(network.parameters(), before, strict=True):
        assert stepper.optimizer.state[parameter]['momentum_buffer'].any()
        assert torch.equal(parameter, old)
        assert parameter.grad is None


def test_forward_is_in_eval_mode_and_without_gradients() -> None:
    network = small()
    seen = []
    network.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    stepper = Stepper(network, TINY)
    stepper.train()
    stepper.forward()
    assert not network.training
    assert [out.requires_grad for _, out in seen] == [True, False]
    assert seen[1][0].shape == (4, 3, 8, 12)


@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
@pytest.mark.parametrize('memory_format', ['channels_last', 'contiguous'])
def test_precision_and_memory_format_are_as_asked(dtype: str, memory_format: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    seen = []
    network.register_forward_hook(lambda _, args, out: seen.extend([args[0], out]))
    Stepper(network, Settings((8, 12), 2, dtype, memory_format)).train()
    image, out = seen
    expected = MEMORY_FORMATS[memory_format]
    assert image.is_contiguous(memory_format=expected)
    assert network[0].weight.is_contiguous(memory_format=expected)
    assert network[0].weight.dtype == torch.float32
    assert out.dtype == DTYPES[dtype]


class Wide(nn.Module):
    """Keeps 64 channels of the image for backward, and adds them up otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 16, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return sum((conv(x).square().mean((2, 3)) for conv in self.convs), torch.zeros(()))


@pytest.mark.skipif(sys.platform != 'linux', reason='is read from /proc')
def test_peak_memory_is_what_the_step_holds_at_once() -> None:
    settings = Settings(shape=(512, 512), batch_size=4)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
        peaks = pool.submit(peak_memory, Wide, settings).result()
    one = 4 * 16 * 512 * 512 * 4  # bytes of a convolution's output
    assert 2 * one < peaks['forward'] < 5 * one
    assert 4 * one < peaks['train'] < 12 * one


@pytest.mark.parametrize(
    ('config', 'outputs'),
    [
        (ROOT / 'configs/cont_ti_8xb64_in1k.py', [1000]),
        ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', [256] * 5),
        (ROOT / 'configs/pspnet_r50_80k_672x672_cityscapes.py', [256, 512, 1024, 2048]),
    ],
)
def test_networks_run_what_does_not_depend_on_the_image(
    config: Path | str, outputs: list[int]
) -> None:
    network = Network(build_model(load_config(str(config)), meta=True))
    # A CPU cannot train with PSPNet's SyncBN.
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in network.modules())
    with torch.device('meta'):
        out = network.train()(torch.empty(2, 3, 64, 64))
    assert [o.shape[1] for o in ([out] if isinstance(out, Tensor) else out)] == outputs
    parts = {name.partition('.')[0] for name, _ in network.named_parameters()}
    assert parts <= ({'backbone', 'head'} if outputs == [1000] else {'backbone', 'neck'})


def test_a_network_that_cannot_run_is_named_before_any_round() -> None:
    lines: list[str] = []
    config = 'mmpretrain::vgg/vgg11_8xb32_in1k.py'
    with pytest.raises(UserError, match=f'^{config}: RuntimeError: '):
        benchmark([config], Settings(shape=(32, 32), rounds=5), lines.append)
    assert lines == [f'building {config}']


@pytest.mark.slow
def test_onnxruntime_computes_the_network_itself(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='onnxruntime is measured on a CPU, in fp32 and without'):
        benchmark(['cont_ti'], Settings(dtype='bf16', onnxruntime=True))
    config = str(write_classifier(tmp_path))
    settings = Settings(shape=(48, 32), batch_size=2, warmup=1, rounds=5, onnxruntime=True)
    network = build_network(config).eval()
    stepper = OnnxStepper(network, settings)
    (out,) = stepper.session.run(None, stepper.feed)
    with torch.no_grad():
        expected = network(torch.from_numpy(stepper.feed['image']))
    torch.testing.assert_close(torch.from_numpy(out), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_tool_measures_compares_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    narrow, file = write_classifier(tmp_path), tmp_path / 'b.json'
    options = ['--shape', 32, 48, '--batch-size', 2, '--warmup', 1, '--rounds', 5, '--json', file]
    networks = [narrow, 'cont_ti', '--onnxruntime']
    assert run_tool(monkeypatch, 'benchmark.py', *networks, *options, '--device', 'cpu') is None
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith('batch 2, 32 x 48, fp32, channels_last, cpu (')
    titles = [' | '.join(cell.strip() for cell in line.strip('| ').split('|')) for line in lines]
    header = 'MACs | ms an image | images/s | speed | peak memory'
    assert f'forward | {header}' in titles and f'train | {header}' in titles
    assert 'train: round 5 of 5' in err
    first, onnx, second, _ = json.loads(file.read_text())['results']
    assert onnx['network'] == f'{narrow}, onnxruntime' and 'train' not in onnx
    assert len(onnx['forward']['seconds']) == 5
    for step in STEPS:
        assert len(first[step]['seconds']) == 5
        assert first[step]['speed'] == [1, 1, 1]
        assert second[step]['speed'][1] < 1  # ConT-Ti is much wider
        time = second[step]['milliseconds_per_image'][1]
        assert time == pytest.approx(sorted(second[step]['seconds'])[2] * 1e3 / 2)
        if sys.platform == 'linux':
            assert second[step]['peak_memory_bytes'] > 4 * second['parameters']
