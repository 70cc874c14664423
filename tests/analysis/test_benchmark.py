import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmcontnet.analysis import benchmark as module
from mmcontnet.analysis.benchmark import (
    STEPS,
    Contestant,
    Measurement,
    Settings,
    Stepper,
    benchmark,
    measure_peak_memory,
    measure_times,
)
from mmcontnet.analysis.complexity import Cost
from mmcontnet.analysis.networks import Network, build_model, build_network
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError

from ..inprocess import run_tool

ROOT = Path(__file__).parents[2]
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
    expected = module.MEMORY_FORMATS[memory_format]
    assert image.is_contiguous(memory_format=expected)
    assert network[0].weight.is_contiguous(memory_format=expected)
    assert network[0].weight.dtype == torch.float32
    assert out.dtype == module.DTYPES[dtype]


def test_contestants_take_turns_to_and_fro_and_fast_steps_are_repeated() -> None:
    calls: list[tuple[str, str, int]] = []

    class Fake:
        def __init__(self, name: str, seconds: float) -> None:
            self.name, self.seconds = name, seconds

        def time(self, step: str, steps: int = 1) -> float:
            calls.append((self.name, step, steps))
            return self.seconds

    steppers = [Fake('slow', 1.0), Fake('fast', module.SAMPLE_TIME / 7)]
    settings = Settings(warmup=2, rounds=3)
    samples = measure_times(steppers, settings, lambda line: None)  # type: ignore[arg-type]
    slow, fast = ('slow', 1), ('fast', 7)
    rounds = [slow, fast, fast, slow, slow, fast]
    for step, part in zip(STEPS, (calls[:10], calls[10:]), strict=True):
        assert part[:4] == [('slow', step, 1)] * 2 + [('fast', step, 1)] * 2
        assert part[4:] == [(name, step, number) for name, number in rounds]
    assert samples[0] == {step: [1.0] * 3 for step in STEPS}


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    slowdown = [1.0, 1.1, 2.0, 3.0, 5.0, 9.0]
    first = Measurement([0.2 * s for s in slowdown])
    other = Measurement([0.1 * s for s in slowdown])
    ratio = other.speed_ratio(first)
    assert ratio.meaningful
    assert ratio.median == pytest.approx(2.0)
    assert ratio.uncertainty == pytest.approx(0.0, abs=1e-9)


def test_a_ratio_that_noise_makes_meaningless_is_known() -> None:
    first = Measurement([1.0] * 8)
    noisy = [0.7, 1.4, 0.8, 1.2, 1.0, 0.6, 1.3, 0.9]
    assert not Measurement(noisy).speed_ratio(first).meaningful
    # The same noise, but seen often enough.
    assert Measurement(noisy * 40).speed_ratio(Measurement([1.0] * 320)).meaningful


def test_time_per_multiply_add_takes_the_work_into_account() -> None:
    first = Contestant('a', Cost(multiply_adds=100), {'forward': Measurement([1.0] * 5)})
    second = Contestant('b', Cost(multiply_adds=300), {'forward': Measurement([1.5] * 5)})
    assert second.time_per_multiply_add(first, 'forward') == pytest.approx(0.5)


class Wide(nn.Module):
    """Keeps 64 channels of the image for backward, and adds them up otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 16, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return sum((conv(x).square().mean((2, 3)) for conv in self.convs), torch.zeros(()))


@pytest.mark.skipif(sys.platform != 'linux', reason='is read from /proc')
def test_peak_memory_is_what_the_step_holds_at_once() -> None:
    peaks = measure_peak_memory(Wide, Settings(shape=(512, 512), batch_size=4))
    one = 4 * 16 * 512 * 512 * 4  # bytes of a convolution's output
    assert 2 * one < peaks['forward'] < 5 * one
    assert 4 * one < peaks['train'] < 12 * one


def test_a_compiled_network_has_no_peak_memory_on_a_cpu() -> None:
    assert measure_peak_memory(small, Settings(compile=True)) == {}


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


def test_configs_without_a_model_are_refused() -> None:
    with pytest.raises(UserError, match='no model.backbone'):
        build_model(ConfigDict())
    with pytest.raises(UserError, match="'no.py' not found"):
        build_network('no.py')


def test_networks_are_built_by_arch_and_by_mmpretrains_names() -> None:
    for name, backbone in (('cmt_ti', 'CMT'), ('resnet18_8xb32_in1k', 'ResNet')):
        assert type(build_network(name).backbone).__name__ == backbone


def test_timm_is_asked_for_only_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(UserError, match='timm is not installed'):
        build_network('timm:resnet50')


def test_a_network_that_cannot_run_is_named_before_any_round() -> None:
    lines: list[str] = []
    config = 'mmpretrain::vgg/vgg11_8xb32_in1k.py'
    with pytest.raises(UserError, match=f'^{config}: RuntimeError: '):
        benchmark([config], Settings(shape=(32, 32), rounds=5), lines.append)
    assert lines == [f'building {config}']


def test_report_names_everything_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'build_network', lambda name: small())
    monkeypatch.setattr(module, 'measure_peak_memory', lambda build, settings: {'train': 7})
    lines: list[str] = []
    first, second = benchmark(['a', 'b'], TINY, lines.append)
    assert (first.name, second.name) == ('a', 'b')
    assert first.cost.multiply_adds == 6 * 10 * 4 * 27 + 240 * 5
    assert [len(second.steps[step].times) for step in STEPS] == [5, 5]
    assert [second.steps[step].peak_memory for step in STEPS] == [None, 7]
    for line in ('building b', 'forward: round 5 of 5', 'measuring the peak memory of b'):
        assert line in lines


def test_tool_prints_a_table_a_step_and_writes_every_sample(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv('MALLOC_MMAP_THRESHOLD_', '1')
    monkeypatch.setenv('MALLOC_TRIM_THRESHOLD_', '2')
    monkeypatch.setattr(module, 'build_network', lambda name: small())
    monkeypatch.setattr(module, 'measure_peak_memory', lambda build, settings: {'train': 3 << 20})
    noisy = iter([0.7, 1.4, 0.8, 1.2, 1.0] * 2)
    times = [{step: [1.0] * 5 for step in STEPS}, {step: [0.5] * 5 for step in STEPS}]
    times.append({step: [next(noisy) for _ in range(5)] for step in STEPS})
    monkeypatch.setattr(module, 'measure_times', lambda *args: times)
    options = ['--shape', 8, 12, '--rounds', 5, '--device', 'cpu', '--json', tmp_path / 'b.json']
    names = ['one', 'two', 'three']
    assert run_tool(monkeypatch, 'benchmark.py', *names, *options) is None

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('batch 8, 8 x 12, fp32, channels_last, cpu (')
    assert lines[0].endswith('MALLOC_MMAP_THRESHOLD_=1, MALLOC_TRIM_THRESHOLD_=2')
    rows = [[cell.strip() for cell in line.split('|')] for line in lines if line[:3] != '|--']
    (two, train) = [row for row in rows if row[1:2] == ['two']]
    assert two[3:9] == ['62.50', '62.50 - 62.50', '16.0', '2.00 ± 0.00', '0.50', '-']
    assert train[8] == '3 MiB'
    assert [row[6:8] for row in rows if row[1:2] == ['three']] == [['?', '?']] * 2
    assert sum(line.startswith('?: no ratio, its 95 % interval is wider') for line in lines) == 2

    content = json.loads((tmp_path / 'b.json').read_text())
    assert content['environment']['allocator']['MALLOC_TRIM_THRESHOLD_'] == '2'
    assert [result['network'] for result in content['results']] == ['one', 'two', 'three']
    assert content['results'][1]['train']['seconds'] == [0.5] * 5
    assert content['results'][1]['train']['speed_ratio'] == {'median': 2.0, 'uncertainty': 0.0}
    assert content['results'][2]['train']['speed_ratio'] is None


def test_tool_starts_again_with_the_allocators_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    class Started(Exception):
        pass

    def execve(path: str, command: list[str], env: dict[str, str]) -> None:
        assert command == sys.orig_argv
        assert int(env['MALLOC_MMAP_THRESHOLD_']) >= 2**30
        assert env['MALLOC_TRIM_THRESHOLD_'] == '5'  # the user's own
        raise Started

    monkeypatch.delenv('MALLOC_MMAP_THRESHOLD_', raising=False)
    monkeypatch.setenv('MALLOC_TRIM_THRESHOLD_', '5')
    monkeypatch.setattr(os, 'execve', execve)
    with pytest.raises(Started):
        run_tool(monkeypatch, 'benchmark.py', 'one')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['a.py', '--rounds', 4], '--rounds must be at least 5'),
        (['a.py', '--batch-size', 0], '--batch-size must be at least 1'),
        (['a.py', '--shape', 0, 3], '--shape takes positive numbers, got 0 3'),
        (['a.py', '--json', 'no/such/a.json'], "--json: no folder 'no/such'"),
        (['a.py'], "a.py: config 'a.py' not found"),
    ],
)
def test_tool_names_the_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list, message: str
) -> None:
    monkeypatch.setenv('MALLOC_MMAP_THRESHOLD_', '1')
    monkeypatch.setenv('MALLOC_TRIM_THRESHOLD_', '2')
    status = run_tool(monkeypatch, 'benchmark.py', *arguments)
    # argparse prints its line itself.
    line = status if isinstance(status, str) else capsys.readouterr().err.splitlines()[-1]
    assert line.startswith('benchmark.py: error: ')
    assert message in line


@pytest.mark.gpu
def test_cuda_steps_are_timed_and_weighed() -> None:
    settings = Settings(shape=(64, 64), batch_size=4, dtype='bf16', device='cuda', rounds=5)
    stepper = Stepper(small(), settings)
    assert all(stepper.time(step) > 0 for step in STEPS)
    peaks = measure_peak_memory(partial(nn.Conv2d, 3, 16, 1), settings)
    assert peaks['train'] >= peaks['forward'] > 4 * 64 * 64 * 3 * 4
