"""Triton makes machine code of every kernel for GPUs that are not there.

As a program this compiles all that the networks launch, and takes about an hour:
``python -m tests.ops.test_triton_compiles``.
"""

import itertools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

# Triton before 3.4 has none; what it compiles is not looked at here.
knobs = pytest.importorskip('triton.knobs')

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.driver import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from mmcontnet.ops import local_aggregation_triton as kernels  # noqa: E402

from .test_local_aggregation import COTNET, COTNEXT, LAYOUTS, SAN, Width  # noqa: E402

pytestmark = pytest.mark.slow

CAPABILITIES = (75, 80, 86, 90, 100, 120)
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
# Of value and weight: GroupNorm gives fp32 under autocast.
DTYPES = ((FP32, FP32), (FP16, FP16), (BF16, BF16), (FP16, FP32), (BF16, FP32))
MAX_SPILL = 16  # bytes of a thread


class NoGPU:
    """Stands in for Triton's driver, which there is none of without a GPU."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps what it has compiled for each device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget('cuda', self.capability, 32)


def compile_instead(patch: pytest.MonkeyPatch, folder: Path) -> list[Any]:
    """Have kernels compiled instead of launched, and return a list that they are added to."""
    compiled: list[Any] = []
    run = JITFunction.run

    def warm_up(self: JITFunction, *args: Any, warmup: bool, **kwargs: Any) -> None:
        compiled.append(run(self, *args, warmup=True, **kwargs))

    patch.setattr(JITFunction, 'run', warm_up)
    patch.setenv('TRITON_CACHE_DIR', str(folder))
    return compiled


def launch(
    width: Width,
    size: tuple[int, int],
    dtypes: tuple[torch.dtype, torch.dtype],
    layouts: tuple[str, str],
) -> None:
    """Launch all kernels of a training step on 2 maps of a size."""
    channels, groups, kernel_size, _, margin = width
    sizes = [s + 2 * margin for s in size], size
    widths = channels, groups * kernel_size**2
    value, weight = (
        LAYOUTS[layout](torch.empty(2, c, *s, device='meta', dtype=dtype))
        for c, s, dtype, layout in zip(widths, sizes, dtypes, layouts, strict=True)
    )
    out = torch.empty_like(value[..., : size[0], : size[1]])
    kernels.forward(value, weight, out, kernel_size)
    kernels.backward(torch.empty_like(out), value, weight, kernel_size)


def spilled(kernel: Any, folder: Path) -> int:
    """Return a thread's stack in bytes, which holds what its registers did not."""
    cubin = folder / 'kernel.cubin'
    cubin.write_bytes(kernel.asm['cubin'])
    command = [knobs.nvidia.cuobjdump.path, '-res-usage', str(cubin)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(usage.split(' STACK:')[1].split()[0])


# One for each capability: all kinds of layouts and dtypes, the most and the fewest channels.
@pytest.mark.parametrize(
    ('capability', 'width', 'dtypes', 'layouts'),
    [
        (75, COTNET[0], DTYPES[3], ('channels_last', 'contiguous')),
        (80, COTNET[3], DTYPES[4], ('channels_last', 'contiguous')),
        (86, COTNEXT[2], DTYPES[0], ('half of channels_last', 'contiguous')),
        (90, SAN[4], DTYPES[2], ('contiguous', 'contiguous')),
        (100, SAN[0], DTYPES[0], ('contiguous', 'channels_last')),
        (120, SAN[1], DTYPES[1], ('channels_last', 'channels_last')),
    ],
)
def test_kernels_compile_without_a_gpu_and_keep_their_sums_in_registers(
    capability: int,
    width: Width,
    dtypes: tuple[torch.dtype, torch.dtype],
    layouts: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    launched = compile_instead(monkeypatch, tmp_path)
    monkeypatch.setattr(driver, '_active', NoGPU(capability))
    launch(width, (width.side, width.side), dtypes, layouts)
    assert [kernel.metadata.target.arch for kernel in launched] == [capability] * 3
    assert max(spilled(kernel, tmp_path) for kernel in launched) <= MAX_SPILL


def compile_everything(folder: Path) -> int:
    """Compile for every capability; return how many kernels spill more than they may."""
    layouts = ('channels_last', 'contiguous'), ('channels_last',) * 2, ('contiguous',) * 2
    halves = ('half of channels_last', 'contiguous'), ('half of channels_last',) * 2
    launched = compile_instead(pytest.MonkeyPatch(), folder)
    bad = 0
    for capability in CAPABILITIES:
        driver.set_active(NoGPU(capability))
        stacks: dict[Any, int] = {}
        for width, dtypes in itertools.product(COTNET + COTNEXT + SAN, DTYPES):
            # Images of 224 x 224 and of 800 x 1280 pixels.
            stride = 224 // width.side
            for size in ((width.side, width.side), (800 // stride, 1280 // stride)):
                for pair in layouts + halves * (width in COTNEXT):
                    launched.clear()
                    launch(width, size, dtypes, pair)
                    for kernel in launched:
                        if kernel not in stacks:
                            stacks[kernel] = spilled(kernel, folder)
                            if stacks[kernel] > MAX_SPILL:
                                bad += 1
                                print(f'{kernel.name} {width} {size} {dtypes} {pair}:', end=' ')
                                print(f'{stacks[kernel]} bytes')
        print(f'{capability}: {len(stacks)} kernels, at most {max(stacks.values())} bytes spilled')
    return bad


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as name:
        raise SystemExit(compile_everything(Path(name)))
