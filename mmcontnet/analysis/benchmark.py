"""Throughput and peak memory of networks side by side.

Two steps are measured. ``forward``: eval mode, no gradients. ``train``: train mode, forward, the
mean square of the outputs as loss, backward, and a step of SGD with momentum 0.9 (at learning rate
0, so that the networks stay what they are). Half precision is autocast's, as OpenMMLab trains with
it: weights and the optimizer's state are fp32.

Contestants take turns, so that a machine that slows down slows all of them, and a ratio is the
median of the ratios within each turn.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import UserError
from .complexity import Cost, count
from .networks import build_network

DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
MEMORY_FORMATS = {
    'channels_last': torch.channels_last,
    'contiguous': torch.contiguous_format,
}
STEPS = ('forward', 'train')

#: A sample is as many steps as take this long, in seconds: clocks and launches do not matter then.
SAMPLE_TIME = 0.05
#: A ratio is worth printing if its confidence interval reaches at most this far to either side.
MAX_UNCERTAINTY = 0.05


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        shape: Height and width of the images in pixels.
        batch_size: Images a step.
        dtype: A key of ``DTYPES``.
        memory_format: A key of ``MEMORY_FORMATS``.
        compile: Use ``torch.compile``.
        device: ``'cpu'`` or ``'cuda'``.
        warmup: Steps before the first sample; at least 1.
        rounds: Samples of every contestant; at least 2.
    """

    shape: tuple[int, int] = (224, 224)
    batch_size: int = 8
    dtype: str = 'fp32'
    memory_format: str = 'channels_last'
    compile: bool = False
    device: str = 'cpu'
    warmup: int = 3
    rounds: int = 20


@dataclass(frozen=True)
class Ratio:
    """A median ratio and the half-width of its 95 % confidence interval (McGill et al., 1978)."""

    median: float
    uncertainty: float

    @property
    def meaningful(self) -> bool:
        """Whether the interval is narrow enough for the ratio to say something."""
        return self.uncertainty <= MAX_UNCERTAINTY * self.median


@dataclass
class Measurement:
    """What one step of one contestant took.

    Attributes:
        times: Seconds a step, one sample a round.
        peak_memory: Bytes, see :func:`measure_peak_memory`; None where it cannot be told.
    """

    times: list[float]
    peak_memory: int | None = None

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of ``times``."""
        low, median, high = statistics.quantiles(self.times, n=4, method='inclusive')
        return low, median, high

    def speed_ratio(self, first: Measurement) -> Ratio:
        """Compare with another contestant of the same rounds; above 1 is faster than it."""
        ratios = [b / a for a, b in zip(self.times, first.times, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4, method='inclusive')
        return Ratio(median, 1.57 * (high - low) / len(ratios) ** 0.5)


@dataclass
class Contestant:
    """A network's name, its costs for one image, and its measurements by step."""

    name: str
    cost: Cost
    steps: dict[str, Measurement]

    def time_per_multiply_add(self, first: Contestant, step: str) -> float:
        """Compare the time a multiply-add takes with another contestant's; below 1 is less."""
        work = self.cost.multiply_adds / first.cost.multiply_adds
        return 1 / (self.steps[step].speed_ratio(first.steps[step]).median * work)


class Stepper:
    """A network that is ready to run the steps that are measured.

    Args:
        network: Takes images, (B, 3, H, W); gives a tensor or a collection of them.
        settings: How to run it.
    """

    def __init__(self, network: nn.Module, settings: Settings) -> None:
        self.settings = settings
        self.device = torch.device(settings.device)
        memory_format = MEMORY_FORMATS[settings.memory_format]
        # mypy takes the overload for devices alone.
        self.network: Any = network.to(self.device).to(memory_format=memory_format)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
        if settings.compile:
            self.network = torch.compile(self.network, dynamic=False)
        images = torch.randn(settings.batch_size, 3, *settings.shape, device=self.device)
        self.images = images.contiguous(memory_format=memory_format)

    def forward(self) -> None:
        """Predict a batch."""
        self.network.eval()
        with torch.no_grad():
            self._outputs()

    def train(self) -> None:
        """Take a training step on a batch."""
        self.network.train()
        outputs = self._outputs()
        torch.stack([out.float().square().mean() for out in outputs]).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _outputs(self) -> list[Tensor]:
        dtype = DTYPES[self.settings.dtype]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            outputs = self.network(self.images)
        return [out for out in tree_leaves(outputs) if isinstance(out, Tensor)]

    def time(self, step: str, steps: int = 1) -> float:
        """Run a step several times and return the seconds that one took."""
        run: Callable[[], None] = getattr(self, step)
        self._synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            run()
        self._synchronize()
        return (time.perf_counter() - start) / steps

    def _synchronize(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()


def measure_times(
    steppers: Sequence[Stepper], settings: Settings, report: Callable[[str], None]
) -> list[dict[str, list[float]]]:
    """Time contestants in turns.

    Args:
        steppers: The contestants.
        settings: How to measure.
        report: Is told the progress.

    Returns:
        For each contestant and step, the seconds a step took in every round.
    """
    samples: list[dict[str, list[float]]] = [{step: [] for step in STEPS} for _ in steppers]
    for step in STEPS:
        report(f'warming up: {step}')
        # The last of the steps tells how many of them make a sample.
        took = [[stepper.time(step) for _ in range(settings.warmup)][-1] for stepper in steppers]
        repeats = [max(1, round(SAMPLE_TIME / seconds)) for seconds in took]
        turns = list(zip(steppers, repeats, samples, strict=True))
        for i in range(settings.rounds):
            report(f'{step}: round {i + 1} of {settings.rounds}')
            # To and fro: nobody always runs after the same neighbour.
            for stepper, number, sample in turns if i % 2 == 0 else reversed(turns):
                sample[step].append(stepper.time(step, number))
    return samples


def measure_peak_memory(build: Callable[[], nn.Module], settings: Settings) -> dict[str, int]:
    """Measure the peak memory of every step in a process of its own.

    On CUDA it is PyTorch's peak of allocated bytes. On a CPU it is by how much the process's
    resident set grew since before the network was built, libraries' workspaces included; that needs
    Linux, and tells nothing of a compiled network, because the compiler works in the same process.

    Args:
        build: Makes the network; can be pickled.
        settings: How to run it.

    Returns:
        Bytes by step, with weights, and for ``train`` gradients and the optimizer's state; empty
        where it cannot be measured.
    """
    if settings.device == 'cpu' and (settings.compile or not Path('/proc/self/status').is_file()):
        return {}
    # A fresh interpreter: a fork would start with its parent's memory.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak_memory, build, settings).result()


def _peak_memory(build: Callable[[], nn.Module], settings: Settings) -> dict[str, int]:
    on_cpu = settings.device == 'cpu'
    # What is imported on the way is not the network's. Not all can be built without memory.
    with suppress(Exception), torch.device('meta'):
        build()
    before = _resident('VmRSS') if on_cpu else 0
    stepper = Stepper(build(), settings)
    peaks = {}
    for step in STEPS:
        for _ in range(2):  # the optimizer's state comes with the first step
            stepper.time(step)
        peaks[step] = _resident('VmHWM') - before if on_cpu else torch.cuda.max_memory_allocated()
    return peaks


def _resident(field: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{field}:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'/proc/self/status has no {field}')


def benchmark(
    names: Sequence[str], settings: Settings, report: Callable[[str], None] = lambda line: None
) -> list[Contestant]:
    """Measure networks side by side.

    Args:
        names: What :func:`mmcontnet.analysis.networks.build_network` takes; the first is what the
            others are compared with.
        settings: How to measure.
        report: Is told the progress.

    Returns:
        The contestants, in the order of ``names``.

    Raises:
        UserError: If a network cannot be built or run.
    """
    torch.manual_seed(0)
    steppers, costs = [], []
    for name in names:
        report(f'{"building and compiling" if settings.compile else "building"} {name}')
        try:
            network = build_network(name)
            costs.append(count(deepcopy(network), torch.empty(1, 3, *settings.shape)).total)
            steppers.append(Stepper(network, settings))
            for step in STEPS:
                steppers[-1].time(step)
        # Networks come from anywhere, and refuse sizes and precisions in their own ways.
        except Exception as error:
            reason = str(error).partition('\n')[0]
            kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
            raise UserError(f'{name}: {kind}{reason}') from error
    samples = measure_times(steppers, settings, report)
    del steppers, network  # make room for the processes that come
    if settings.device == 'cuda':
        torch.cuda.empty_cache()
    contestants = []
    for name, cost, times in zip(names, costs, samples, strict=True):
        report(f'measuring the peak memory of {name}')
        try:
            peaks = measure_peak_memory(partial(build_network, name), settings)
        except RuntimeError as error:  # a process that ran out of memory, or was killed for it
            report(f'no peak memory of {name}: {error}')
            peaks = {}
        steps = {step: Measurement(times[step], peaks.get(step)) for step in STEPS}
        contestants.append(Contestant(name, cost, steps))
    return contestants
