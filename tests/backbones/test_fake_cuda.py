"""On CUDA nothing is computed elsewhere, as fake tensors show without a GPU.

Backward is left out: autograd wants a real device. As a program this runs every variant at its
depth, in every mode, size and precision: ``python -m tests.backbones.test_fake_cuda``.
"""

import itertools
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmcontnet import backbones
from mmcontnet.analysis.memory import autocast, fake_cuda, on_cuda

from ..ops.test_local_aggregation import COTNET, COTNEXT, SAN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.__version__.startswith('2.4'),
        reason="PyTorch 2.4's fake CUDA tensors ask for a driver",
    ),
]

MODULES = {
    'ConTNet': 'contnet',
    'CMT': 'cmt',
    'CoTNet': 'cotnet',
    'ResNetACmix': 'resnet_acmix',
    'SANACmix': 'san_acmix',
    'PVTACmix': 'pvt_acmix',
    'SwinACmix': 'swin_acmix',
}
ARCHS = {name: import_module(f'mmcontnet.backbones.{MODULES[name]}').ARCHS for name in MODULES}
POOL = dict(downsample='pool', output_stride=8, pos_encoding='relative', pre_norm=True)
OPTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ('ConTNet', 's', POOL),
    ('ConTNet', 's', dict(pos_encoding='1d')),
    ('CMT', 'ti', dict(bias_resize='matrix')),
]
ODD = (213, 331)
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
# What local aggregation sums: channels, groups and kernel size. The kernels are compiled for these.
WIDTHS = {width[:3] for width in COTNET + COTNEXT + SAN}


class CUDAOnly(TorchDispatchMode):
    """Refuses every operation that makes a tensor elsewhere; notes dtypes of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                assert tensor.is_cuda, f'{func} makes a tensor on {tensor.device}'
        if func is torch.ops.mmcontnet.local_aggregation.default:
            value, weight, kernel_size, impl = args
            width = value.shape[1], weight.shape[1] // kernel_size**2, kernel_size
            assert (impl, width in WIDTHS) == ('triton', True), (impl, width)
        if func is torch.ops.aten.convolution.default:
            self.dtypes.add(out.dtype)
        return out


def test_a_tensor_of_the_cpu_is_found() -> None:
    with fake_cuda(), CUDAOnly(), pytest.raises(AssertionError, match='on cpu'):
        torch.zeros(2, device='cuda') + torch.zeros(())


def check(
    network: nn.Module,
    state: dict[str, Tensor],
    size: tuple[int, int],
    dtype: torch.dtype,
    training: bool,
) -> None:
    image = torch.empty(2, 3, *size, device='cuda').to(memory_format=torch.channels_last)
    network.train(training)
    with CUDAOnly() as seen, autocast(dtype), torch.set_grad_enabled(training):
        outs = torch.func.functional_call(network, state, (image,))
    assert dtype in seen.dtypes
    for out, stride in zip(outs, network.out_strides, strict=True):
        assert out.is_cuda
        assert out.shape[2:] == tuple(-(-side // stride) for side in size)
        assert out.requires_grad == training


def shorten(name: str, arch: str) -> dict[str, Any]:
    """Return a variant of few blocks; those of a stage differ in pairs at most."""
    return dict(ARCHS[name][arch], depths=(1, 1, 2, 1))


def distinct() -> list[tuple[str, str, dict[str, Any]]]:
    """Return the variants that differ in more than their depths."""
    kept = {repr((n, shorten(n, arch))): (n, arch, {}) for n in ARCHS for arch in ARCHS[n]}
    return list(kept.values())


@pytest.mark.parametrize(('name', 'arch', 'options'), distinct() + OPTIONS)
def test_every_variant_computes_with_cuda_tensors_alone(
    name: str, arch: str, options: dict[str, Any]
) -> None:
    fields = shorten(name, arch)
    native = (fields.get('img_size', 224),) * 2
    with fake_cuda():
        network = getattr(backbones, name)(fields, **options)
        state = on_cuda(network)
        check(network, state, ODD, FP16, training=True)
        check(network, state, native, BF16, training=False)
        check(network, state, native, FP32, training=True)


if __name__ == '__main__':
    with fake_cuda():
        for name, arch in ((n, a) for n in ARCHS for a in ARCHS[n]):
            network = getattr(backbones, name)(arch)
            native = (ARCHS[name][arch].get('img_size', 224),) * 2
            state = on_cuda(network)
            for case in itertools.product((native, ODD), (FP32, FP16, BF16), (False, True)):
                check(network, state, *case)
            print(name, arch, flush=True)
