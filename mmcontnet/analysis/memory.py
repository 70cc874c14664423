"""How much GPU memory a training step takes, estimated without a GPU.

Forward runs on PyTorch's fake CUDA tensors, which have shapes alone; hooks see what it keeps for
backward.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import Tensor, nn

# PyTorch has no public name for them, nor another way to tell what CUDA would keep.
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from ..backbones.base import HybridBackbone, Stage
from ..builders import build_model, find_type, network_errors
from ..layers.inline import PLAIN_TENSORS
from .complexity import describe_images, stand_in_for_proposals
from .inspection import image_channels


def training_memory(
    cfg: Config, shape: tuple[int, int], batch_size: int, dtype: torch.dtype = torch.float32
) -> int:
    """Estimate the bytes that a training step takes on a GPU.

    These are weights, gradients, one number of the optimizer for each weight (SGD's momentum; AdamW
    has two), and all maps that forward keeps for backward, of backbone, neck and heads, but for
    auxiliary ones. With ``with_cp`` a backbone of this project keeps the inputs of its blocks, and
    the maps of one block at a time. What losses and backward take for a while comes on top: what
    mmdet publishes for detectors with ResNets, two images of 800 x 1333 on a GPU, is 0.7 to 1.1 GB
    more.

    Args:
        cfg: Config of a detector, a segmenter or a classifier.
        shape: Height and width of the images in pixels.
        batch_size: Images on the GPU.
        dtype: fp32, or half precision, which is autocast's.

    Raises:
        UserError: If the model cannot be built or run on shapes alone.
    """
    model: Any = revert_sync_batchnorm(build_model(cfg, meta=True))
    model.train()
    with fake_cuda():
        state = on_cuda(model)
        images = torch.empty(batch_size, image_channels(model), *shape, device='cuda')
        images = images.to(memory_format=torch.channels_last)
        samples = describe_images(shape, batch_size)
        outs: list[Any] = []  # what is kept for backward lives as long as they do
        keeper = _Keeper(model)
        with (
            network_errors(f'the model cannot be tried at {shape[0]} x {shape[1]}'),
            autocast(dtype),
            _FusedAttention(),
            saved_tensors_hooks(keeper.keep, lambda it: it.tensor),
        ):
            if hasattr(model, 'rpn_head') and hasattr(model, 'roi_head'):
                stand_in_for_proposals(model, torch.empty(_regions(model), 4, device='cuda'), outs)
            arguments = images, samples
            outs.append(torch.func.functional_call(model, state, arguments, dict(mode='tensor')))
        weights = {id(tensor.untyped_storage()): tensor for tensor in state.values()}
        maps = keeper.size_of_maps(weights)
    # A weight with its gradient and momentum.
    return maps + sum(x.nbytes * (3 if x.requires_grad else 1) for x in weights.values())


def training_memories(cfg: Config, shape: tuple[int, int], batch_size: int) -> dict[str, int]:
    """Estimate it in fp32 and in half precision, and both with ``with_cp``.

    Returns:
        Bytes: ``'fp32'``, ``'half'``, and for backbones of this project ``'fp32_with_cp'`` and
        ``'half_with_cp'``.

    Raises:
        UserError: As for :func:`training_memory`.
    """
    cfg, found = copy.deepcopy(cfg), {}
    backbone: Any = cfg.model.get('backbone')
    kind = find_type(MODELS, backbone, 'model.backbone') if backbone else None
    ours = isinstance(kind, type) and issubclass(kind, HybridBackbone)
    for suffix in ('', '_with_cp') if ours else ('',):
        if ours:
            backbone.with_cp = bool(suffix)
        for name, dtype in dict(fp32=torch.float32, half=torch.bfloat16).items():
            found[name + suffix] = training_memory(cfg, shape, batch_size, dtype)
    return found


class _Kept:
    """A tensor that is kept for backward, and the number of the block that alone needs it."""

    def __init__(self, tensor: Tensor, block: int | None) -> None:
        self.tensor, self.storage, self.block = tensor, tensor.untyped_storage(), block


class _Keeper:
    """Finds what is kept for backward.

    With ``with_cp``, the blocks run without it, for what they would compute again to be seen.
    """

    def __init__(self, model: nn.Module) -> None:
        self.kept: WeakSet[_Kept] = WeakSet()
        self.inputs: list[_Kept] = []
        self.blocks = itertools.count()
        self.block: int | None = None
        for stage in model.modules():
            if isinstance(stage, Stage) and stage.with_cp:
                stage.run = self._run  # type: ignore[method-assign]

    def _run(self, block: nn.Module, *args: Tensor | None) -> Tensor:
        self.block = next(self.blocks)
        out = block(*args)
        self.block = None
        if out.requires_grad:  # not of a frozen stage
            self.inputs += [_Kept(x, None) for x in args if x is not None]
        return out

    def keep(self, tensor: Tensor) -> _Kept:
        """Take note of a tensor."""
        kept = _Kept(tensor, self.block)
        self.kept.add(kept)
        return kept

    def size_of_maps(self, weights: Collection[int]) -> int:
        """Return the bytes of all that is kept at a time but for storages with these ids."""
        seen, sizes = {*weights}, Counter[int | None]()
        always = [it for it in self.kept if it.block is None]
        for it in itertools.chain(self.inputs, always, self.kept):
            if id(it.storage) not in seen:
                seen.add(id(it.storage))
                sizes[it.block] += it.storage.nbytes()
        return sizes.pop(None, 0) + max(sizes.values(), default=0)


class _FusedAttention(TorchFunctionMode):
    """Calls the kernel that CUDA would: on fake tensors PyTorch takes the plain form."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        fused = func is F.scaled_dot_product_attention
        return (_attention if fused else func)(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Take what PyTorch's function takes; nothing is kept for dropout or a causal mask."""
    if torch.is_autocast_enabled('cuda'):
        half = torch.get_autocast_dtype('cuda')
        query, key, value = (x.to(half) for x in (query, key, value))
    if attn_mask is not None:
        shape = (*query.shape[:-1], key.shape[-2])
        attn_mask = attn_mask.to(query.dtype).expand(shape)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, attn_mask, True, scale=scale)[0]


def _regions(model: Any) -> int:
    """Return with how many regions of an image the second stage of a detector is trained."""
    config, masks = model.train_cfg.rcnn, model.roi_head.with_mask
    stages = config if isinstance(config, list) else [config]
    sampler = stages[0].sampler
    # Masks are learnt for those with an object. In mmdet's mode='tensor' a cascade makes them for
    # all regions, and other heads for 100.
    return int(sampler.num * (sampler.pos_fraction if masks and stages[1:] else 1))


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Make all tensors fakes, for which layers take the steps that they take on CUDA."""
    PLAIN_TENSORS.append(FakeTensor)
    try:
        with FakeTensorMode():
            yield
    finally:
        PLAIN_TENSORS.remove(FakeTensor)


@contextmanager
def autocast(dtype: torch.dtype) -> Iterator[None]:
    """Autocast of CUDA, of fp32 for none; torch.autocast does nothing where there is no GPU."""
    before = torch.get_autocast_dtype('cuda')
    half = dtype != torch.float32
    torch.set_autocast_enabled('cuda', half)
    torch.set_autocast_dtype('cuda', dtype if half else before)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled('cuda', False)
        torch.set_autocast_dtype('cuda', before)


def on_cuda(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a network as :meth:`nn.Module.cuda`, which fakes lack, has them.

    What a layer holds that is neither stays on the CPU.
    """
    return {
        name: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device='cuda').requires_grad_(
            x.requires_grad
        )
        for name, x in itertools.chain(network.named_parameters(), network.named_buffers())
    }
