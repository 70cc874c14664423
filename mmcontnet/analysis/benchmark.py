"""Throughput and peak memory of networks side by side.

Two steps are measured. ``forward``: eval mode, no gradients. ``train``: train mode, forward, the
mean square of the outputs as loss, backward, and a step of SGD with momentum 0.9 (at learning rate
0, so that the networks stay what they are). Half precision is autocast's, as OpenMMLab trains with
it: weights and the optimizer's state are fp32.

Networks take turns, so that a machine that slows down slows all of them, and ratios are taken
within each turn. The clock is that of ``torch.utils.benchmark``, which waits for the GPU; its
``Timer`` warms up before every sample, which takes thrice the time where a step is long.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import re
import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from timeit import timeit
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import timer

from ..builders import network_errors
from ..errors import UserError
from .complexity import count
from .export import check_packages
from .inspection import image_channels
from .networks import build_network
from .report import hush

DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
MEMORY_FORMATS = {
    'channels_last': torch.channels_last,
    'contiguous': torch.contiguous_format,
}
STEPS = ('forward', 'train')

#: A sample is as many steps as take this long, in seconds: clocks and launches do not matter then.
SAMPLE_TIME = 0.05


@dataclass(frozen=True)
class Settings:
    """How to measure; the fields are options of tools/benchmark.py."""

    shape: tuple[int, int] = (224, 224)
    batch_size: int = 8
    dtype: str = 'fp32'
    memory_format: str = 'channels_last'
    compile: bool = False
    device: str = 'cpu'
    warmup: int = 3
    rounds: int = 20
    onnxruntime: bool = False


def keep_freed_memory() -> None:
    """Let glibc keep what is freed.

    It hands big blocks back to the system, and then page faults cost more than networks differ.
    """
    with suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own


class Stepper:
    """A network, from images (B, C, H, W) to a tensor or several, ready to run its steps."""

    steps: Sequence[str] = STEPS

    def __init__(self, network: nn.Module, settings: Settings) -> None:
        self.dtype = DTYPES[settings.dtype]
        memory_format = MEMORY_FORMATS[settings.memory_format]
        # mypy takes the overload for devices alone.
        self.network: Any = network.to(settings.device).to(memory_format=memory_format)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
        if settings.compile:
            self.network = torch.compile(self.network, dynamic=False)
        images = random_images(network, settings).to(settings.device)
        self.images = images.contiguous(memory_format=memory_format)

    def forward(self) -> None:
        """Predict a batch."""
        self.network.eval()
        with torch.no_grad():
            self._outputs()

    def train(self) -> None:
        """Take a training step on a batch."""
        self.network.train()
        torch.stack([out.float().square().mean() for out in self._outputs()]).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _outputs(self) -> Sequence[Tensor]:
        enabled = self.dtype != torch.float32
        with torch.autocast(self.images.device.type, dtype=self.dtype, enabled=enabled):
            outputs = self.network(self.images)
        return [outputs] if isinstance(outputs, Tensor) else outputs

    def time(self, step: str, steps: int = 1) -> float:
        """Run a step several times and return the seconds that one took."""
        return timeit(getattr(self, step), timer=timer, number=steps) / steps


class OnnxStepper(Stepper):
    """A network that onnxruntime computes on the CPU, with as many threads as PyTorch has."""

    steps = ('forward',)

    def __init__(self, network: nn.Module, settings: Settings) -> None:
        import onnxruntime  # an extra of this package

        images = random_images(network, settings)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            program = torch.onnx.export(
                network.eval(), (images,), dynamo=True, input_names=['image'], verbose=False
            )
        assert program is not None  # what dynamo=True returns
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(
            program.model_proto.SerializeToString(), options, ['CPUExecutionProvider']
        )
        self.feed = dict(image=images.numpy())

    def forward(self) -> None:
        """Predict a batch."""
        self.session.run(None, self.feed)


def random_images(network: nn.Module, settings: Settings) -> Tensor:
    """Make images, (B, C, H, W)."""
    return torch.randn(settings.batch_size, image_channels(network), *settings.shape)


def measure_times(
    steppers: Sequence[Stepper], settings: Settings, report: Callable[[str], None]
) -> list[dict[str, list[float]]]:
    """Time networks in turns: for each, by step, the seconds that a step took in every round."""
    samples: list[dict[str, list[float]]] = [{step: [] for step in s.steps} for s in steppers]
    for step in STEPS:
        report(f'warming up: {step}')
        turns = []
        for stepper, sample in zip(steppers, samples, strict=True):
            if step in sample:
                # The last of the steps tells how many of them make a sample.
                took = [stepper.time(step) for _ in range(settings.warmup)][-1]
                turns.append((stepper, max(1, round(SAMPLE_TIME / took)), sample))
        for i in range(settings.rounds):
            report(f'{step}: round {i + 1} of {settings.rounds}')
            # In both directions: no network always runs after the same one.
            for stepper, number, sample in turns if i % 2 == 0 else reversed(turns):
                sample[step].append(stepper.time(step, number))
    return samples


def peak_memory(build: Callable[..., nn.Module], settings: Settings, *args: Any) -> dict[str, int]:
    """Measure the peak memory of every step; only in a process that has done nothing else.

    On CUDA it is PyTorch's peak of allocated bytes. On a CPU it is by how much the process's
    resident set grew since before the network was built, libraries' workspaces included; that needs
    Linux, and tells nothing of a compiled network, because the compiler works in the same process.

    Args:
        build: Makes the network.
        settings: How to run it.
        args: For ``build``.

    Returns:
        Bytes by step, with weights, and for ``train`` gradients and the optimizer's state; empty
        where it cannot be measured.
    """
    on_cpu, status = settings.device == 'cpu', Path('/proc/self/status')
    if on_cpu and (settings.compile or not status.is_file()):
        return {}

    def resident(field: str) -> int:
        return 1024 * int(re.findall(rf'{field}:\s+(\d+) kB', status.read_text())[0])

    # What is imported on the way is not the network's. Not all can be built without memory.
    with suppress(Exception), torch.device('meta'):
        build(*args)
    before = resident('VmRSS') if on_cpu else 0
    stepper = Stepper(build(*args), settings)
    peaks = {}
    for step in STEPS:
        for _ in range(2):  # the optimizer's state comes with the first step
            stepper.time(step)
        peaks[step] = resident('VmHWM') - before if on_cpu else torch.cuda.max_memory_allocated()
    return peaks


def quartiles(values: Iterable[float]) -> list[float]:
    """Return the lower quartile, the median and the upper quartile."""
    return statistics.quantiles(values, n=4, method='inclusive')


def benchmark(
    names: Sequence[str], settings: Settings, report: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Measure networks side by side.

    Args:
        names: What :func:`mmcontnet.analysis.networks.build_network` takes; the first is what the
            others are compared with.
        settings: How to measure.
        report: Is told the progress.

    Returns:
        For each network, and with ``onnxruntime`` for each once more as ``NAME, onnxruntime``,
        which has no training, its ``network``, the counts of an image, and by step: ``seconds`` of
        every sample, the quartiles of ``milliseconds_per_image`` and of ``speed``, which is above 1
        where a network is faster than the first in the same round, and ``peak_memory_bytes`` or
        None.

    Raises:
        UserError: If a network cannot be built or run, or onnxruntime is not there or cannot do
            what the settings say.
    """
    if settings.onnxruntime:
        _check_onnxruntime(settings)
    keep_freed_memory()
    torch.manual_seed(0)
    steppers, results = [], []
    for name in names:
        report(f'{"building and compiling" if settings.compile else "building"} {name}')
        network = build_network(name)
        with network_errors(name):
            image = torch.empty(1, image_channels(network), *settings.shape)
            cost = count(deepcopy(network), image).total
            # Before the network changes its layout.
            onnx = [OnnxStepper(network, settings)] if settings.onnxruntime else []
            for stepper in (Stepper(network, settings), *onnx):
                for step in stepper.steps:
                    stepper.time(step)
                steppers.append(stepper)
                runtime = ', onnxruntime' * isinstance(stepper, OnnxStepper)
                results.append(dict(network=name + runtime, **asdict(cost)))
    samples = measure_times(steppers, settings, report)
    del steppers, network, stepper, onnx  # free memory for the processes below
    if settings.device == 'cuda':
        torch.cuda.empty_cache()
    for result, sample in zip(results, samples, strict=True):
        peaks = _peaks_of(result['network'], settings, report) if 'train' in sample else {}
        for step, seconds in sample.items():
            rounds = zip(samples[0][step], seconds, strict=True)
            result[step] = dict(
                seconds=seconds,
                milliseconds_per_image=quartiles(1e3 * s / settings.batch_size for s in seconds),
                speed=quartiles(first / own for first, own in rounds),
                peak_memory_bytes=peaks.get(step),
            )
    return results


def _peaks_of(name: str, settings: Settings, report: Callable[[str], None]) -> dict[str, int]:
    """Measure :func:`peak_memory` of a network in a process of its own."""
    report(f'measuring the peak memory of {name}')
    # A fresh interpreter: a fork would start with its parent's memory.
    spawn = multiprocessing.get_context('spawn')
    try:
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=hush) as pool:
            return pool.submit(peak_memory, build_network, settings, name).result()
    except RuntimeError as error:  # it ran out of memory, or was killed for it
        report(f'no peak memory of {name}: {error}')
        return {}


def _check_onnxruntime(settings: Settings) -> None:
    """Check that onnxruntime is there, and can compute what the settings ask for."""
    check_packages('onnxruntime', 'onnxscript')
    if (settings.device, settings.dtype, settings.compile) != ('cpu', 'fp32', False):
        raise UserError(
            'onnxruntime is measured on a CPU, in fp32 and without --compile: write --device cpu'
        )
