"""On a GPU every tensor must be made there: shown by fake CUDA tensors, without a GPU.

Backward passes are not: autograd asks for a real device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..families import Family, every_family

pytestmark = pytest.mark.skipif(
    torch.__version__.startswith('2.4'), reason="PyTorch 2.4's fake CUDA tensors ask for a driver"
)


class OnCuda(TorchDispatchMode):
    """Fails where an operator returns a tensor on another device; notes dtypes of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != 'cuda':
                raise AssertionError(f'{func} gave {tuple(tensor.shape)} on {tensor.device}')
        if func is torch.ops.aten.convolution.default:
            self.dtypes.add(out.dtype)
        return out


@contextmanager
def autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast of CUDA; torch.autocast itself does nothing where there is no GPU."""
    before = torch.get_autocast_dtype('cuda')
    torch.set_autocast_enabled('cuda', dtype is not None)
    torch.set_autocast_dtype('cuda', dtype or before)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled('cuda', False)
        torch.set_autocast_dtype('cuda', before)


def test_a_tensor_of_the_cpu_is_found() -> None:
    with FakeTensorMode(), OnCuda(), pytest.raises(AssertionError, match='on cpu'):
        torch.zeros(2, device='cuda') + torch.zeros(())


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [None, torch.float16, torch.bfloat16], ids=str)
@every_family
def test_computes_with_nothing_but_cuda_tensors(family: Family, dtype: torch.dtype | None) -> None:
    with FakeTensorMode(), torch.no_grad():
        with torch.device('cuda'):
            backbone = family(drop_path_rate=0.1)
        # Strides and windows fit the first size and none of the second.
        for training, size in product((True, False), ((64, 64), (70, 50))):
            image = torch.empty(2, 3, *size, device='cuda')
            backbone.train(training)
            with autocast(dtype), OnCuda() as seen:
                outs = backbone(image)
            assert {out.device.type for out in outs} == {'cuda'}
            assert (dtype or torch.float32) in seen.dtypes
