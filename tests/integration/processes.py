"""What each of several gloo processes does in test_processes.py."""

import gc
import os
import resource
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.model import BaseModel, MMDistributedDataParallel, convert_sync_batchnorm
from mmengine.runner import FlexibleRunner
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontnet.backbones.base import HybridBackbone
from mmcontnet.backbones.swin_acmix import OutputNorm

from ..families import ALL, FAMILIES, Family, blocks

IMAGES = 4  # in all processes together

# How the norms see the whole batch, or no batch, and what else DDP has to get right.
SETTINGS: dict[str, dict[str, Any]] = {
    'norm_eval, frozen stages': dict(norm_eval=True, frozen_stages=2),
    'SyncBN, checkpointing': dict(with_cp=True),
}


class SyncBatchNorm(_BatchNorm):
    """SyncBN for a CPU, where both PyTorch's and DDP refuse: it has no kernels for one."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            mean, var = self.running_mean, self.running_var
            return F.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)
        count = x.new_full((self.num_features,), x.numel() / self.num_features)
        sums = all_reduce(torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), count]))
        mean, square = sums[:2] / sums[2]
        var = square - mean**2
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * sums[2] / (sums[2] - 1), self.momentum)
        self.num_batches_tracked.add_(1)
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


def step(model: nn.Module, batch: list[Tensor], mine: slice = slice(None)) -> dict[str, Tensor]:
    """Return the gradients of a loss that averages over this part of the batch."""
    model.zero_grad()
    images, *targets = (tensor[mine] for tensor in batch)
    outs = model(images)
    sum((out * t).mean() for out, t in zip(outs, targets, strict=True)).backward()
    return {
        name.removeprefix('module.'): p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def distance(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference, beside the largest value of each tensor."""
    assert actual.keys() == expected.keys()
    return max(
        float((actual[name] - value).abs().max() / value.abs().max().clamp(min=1e-6))
        for name, value in expected.items()
    )


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """Copy the running statistics."""
    return {
        f'{name}.{key}': value.clone()
        for name, norm in model.named_modules()
        if isinstance(norm, _BatchNorm)
        for key, value in (('mean', norm.running_mean), ('var', norm.running_var))
    }


def make_batch(family: Family) -> list[Tensor]:
    """Make images that no stride divides, and what multiplies each of their maps in the loss."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(
            (IMAGES, channels, *(-(-side // stride) for side in (70, 50))),
            dtype=torch.float64,
            generator=generator,
        )
        for channels, stride in [(3, 1), *zip(family.channels, family.strides, strict=True)]
    ]


def compare(family: Family, setting: str, device: str) -> dict[str, float]:
    """Tell how far gradients and statistics of all processes are from those of the first alone."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    batch = [tensor.to(device) for tensor in make_batch(family)]
    share = IMAGES // processes
    torch.manual_seed(rank)  # DDP hands round the weights of the first
    one = family(**SETTINGS[setting], out_indices=ALL).double().to(device).train()
    several = deepcopy(one)
    if not one.norm_eval:
        several = convert_sync_batchnorm(several)
        for norm in several.modules():
            if isinstance(norm, nn.SyncBatchNorm) and device == 'cpu':
                norm.__class__ = SyncBatchNorm
    # Without a search for parameters that got no gradient, which DDP misses in the second step.
    parallel = MMDistributedDataParallel(several.train(), broadcast_buffers=False)
    for _ in range(2):
        actual = step(parallel, batch, slice(rank * share, (rank + 1) * share))
    if rank > 0:
        return {}
    for _ in range(2):
        expected = step(one, batch)
    assert expected.keys() == {name for name, p in one.named_parameters() if p.requires_grad}
    found = dict(gradients=distance(actual, expected))
    if norms := statistics(one):
        found['statistics'] = distance(statistics(several), norms)
    return found


def compare_gradients(device: str, folder: Path) -> dict[str, dict[str, float]]:
    """Compare them for every family."""
    return {
        f'{family.type} {i}, {setting}': compare(family, setting, device)
        for i, family in enumerate(FAMILIES)
        for setting in SETTINGS
    }


class Learner(BaseModel):
    """A backbone and the loss of ``step``, as mmengine's runners train it."""

    def __init__(self, backbone: HybridBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Tensor, targets: list[Tensor], mode: str) -> dict[str, Tensor]:
        outs = self.backbone(inputs)
        return dict(loss=sum((out * t).mean() for out, t in zip(outs, targets, strict=True)))


def train_sharded(family: Family, device: str, folder: Path) -> float:
    """Train by mmengine's FSDPStrategy; tell how far all weights are from those of one process."""
    batch = make_batch(family)
    torch.manual_seed(0)
    one = family(norm_eval=True, out_indices=ALL).double().to(device).train()
    model = Learner(deepcopy(one).cpu())
    parts = [*model.backbone.stages, *blocks(model.backbone)]
    wrapper: dict[str, Any] = dict(
        type='MMFullyShardedDataParallel',
        # The call of a stage does not use the norm of its output.
        auto_wrap_policy=ModuleWrapPolicy({type(part) for part in parts} | {OutputNorm}),
    )
    if device == 'cpu':
        wrapper['device_id'] = 'cpu'  # the strategy's own is a number, which stands for a GPU
    samples = [dict(inputs=image, targets=maps) for image, *maps in zip(*batch, strict=True)]
    runner = FlexibleRunner(
        model=model,
        work_dir=str(folder),
        experiment_name=family.type,
        strategy=dict(type='FSDPStrategy', model_wrapper=wrapper),
        train_dataloader=dict(
            batch_size=IMAGES // 2 // dist.get_world_size(),
            dataset=samples,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None, logger=None),
    )
    runner.train()
    parallel = runner.strategy.model
    assert sum(isinstance(m, FullyShardedDataParallel) for m in parallel.modules()) > len(parts)
    optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
    for _ in range(2):
        for half in (slice(IMAGES // 2), slice(IMAGES // 2, None)):
            step(one, [tensor.to(device) for tensor in batch], half)
            optimizer.step()
    prefix = 'backbone.'
    with FullyShardedDataParallel.summon_full_params(parallel):
        weights = {n.rpartition(prefix)[2]: p.clone() for n, p in parallel.named_parameters()}
    return distance(weights, dict(one.named_parameters()))


def compare_sharded(device: str, folder: Path) -> dict[str, float]:
    """Compare them for every family."""
    # Runners read it, and the strategy has the model there.
    os.environ['LOCAL_RANK'] = '0'
    return {
        f'{family.type} {i}': train_sharded(family, device, folder)
        for i, family in enumerate(FAMILIES)
    }


def train_on_many_sizes(device: str, folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Train on images of 30 sizes, testing in between; count live tensors and resident MiB."""
    # oneDNN keeps the kernels of 1,024 shapes, which would take as many sizes to fill.
    os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'] = '64'
    gc.freeze()  # what is there already need not be looked at
    order = torch.randperm(32**2, generator=torch.Generator().manual_seed(0))[:30]
    # The largest comes first, so that what it needs is there.
    sizes = [(64, 64), *((33 + n // 32, 33 + n % 32) for n in order.tolist()[1:])]
    found = {}
    # ConTNet's two kinds of downsampling compute with the same layers.
    for family in FAMILIES[1:]:
        backbone = family().to(device).train()
        counts, memory = [], []
        for size in sizes:
            backbone(torch.randn(2, 3, *size, device=device))[0].sum().backward()
            backbone.eval()
            with torch.no_grad():
                backbone(torch.randn(1, 3, *size, device=device))
            backbone.zero_grad()
            backbone.train()
            gc.collect()
            counts.append(sum(issubclass(type(o), Tensor) for o in gc.get_objects()))
            pages = int(Path('/proc/self/statm').read_text().split()[1])
            memory.append(pages * resource.getpagesize() / 2**20)
        found[family.type] = counts, memory
    return found


def work(rank: int, processes: int, task: Callable, device: str, folder: Path) -> None:
    """Be one of the processes; the first writes what it found into ``folder``."""
    torch.set_num_threads(1)
    store = f'file://{folder}/store'
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=processes)
    found = task(device, folder)
    if rank == 0:
        torch.save(found, folder / 'found.pt')
    dist.destroy_process_group()
