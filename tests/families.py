"""The families that tests go through: small networks, and what each of them promises."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from torch import nn

from mmcontnet import backbones
from mmcontnet.backbones.base import HybridBackbone
from mmcontnet.layers import ConvolutionPath, PathSum

ALL = (0, 1, 2, 3)

CONTNET = dict(
    embed_dims=(8, 16, 32, 64),
    num_heads=(1, 2, 4, 8),
    feedforward_channels=(16, 32, 32, 64),
    depths=(2, 1, 1, 2),
    drop_rates=(0.0, 0.0, 0.0, 0.0),
    out_drop_rate=0.0,
)
CMT = dict(
    stem_channels=4, embed_dims=(8, 16, 32, 64), depths=(1, 1, 2, 1), ffn_ratio=2.5, img_size=64
)
COTNET = dict(
    out_channels=(32, 64, 96, 128),
    mid_channels=(16, 32, 48, 64),
    layers=('cot', 'split', 'alternate', 'conv'),
    groups=2,
    key_groups=4,
    stem_channels=16,
    deep=True,
    blur=True,
    depths=(1, 1, 2, 1),
)
RESNET_ACMIX = dict(
    out_channels=(32, 48, 64, 96), mid_channels=(8, 12, 16, 24), depths=(1, 2, 1, 1)
)
# Two blocks make a pair, of which the second is shifted.
SWIN_ACMIX = dict(embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4), depths=(2, 1, 2, 2))
SAN_ACMIX = dict(stem_channels=32, channels=(32, 64, 96, 128), stem_depth=1, depths=(1, 1, 2, 1))
PVT_ACMIX = dict(
    embed_dims=(8, 16, 40, 64), num_heads=(1, 2, 5, 8), depths=(1, 1, 2, 1), img_size=64
)


class Family(NamedTuple):
    """A backbone class, arguments for a small network, and what that network promises."""

    type: str
    kwargs: dict[str, Any]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    real: dict[str, Any]  # arguments of a real network, for what a small one may not show

    def __call__(self, **kwargs: Any) -> HybridBackbone:
        return getattr(backbones, self.type)(**{**self.kwargs, **kwargs})


POOL = dict(arch=CONTNET, downsample='pool')
STRIDES = (4, 8, 16, 32)
FAMILIES = [
    Family('ConTNet', dict(arch=CONTNET), (16, 32, 64, 128), (8, 16, 32, 32), dict(arch='s')),
    Family('ConTNet', POOL, (16, 32, 64, 128), STRIDES, dict(arch='s', downsample='pool')),
    Family(
        'CoTNet',
        dict(arch=COTNET, zero_init_residual=False),
        (32, 64, 96, 128),
        STRIDES,
        dict(arch='next50'),
    ),
    Family('ResNetACmix', dict(arch=RESNET_ACMIX), (32, 48, 64, 96), STRIDES, dict(arch='26')),
    Family('SwinACmix', dict(arch=SWIN_ACMIX), (8, 16, 24, 32), STRIDES, dict(arch='t')),
    Family('SANACmix', dict(arch=SAN_ACMIX), (32, 64, 96, 128), STRIDES, dict(arch='10')),
    Family('PVTACmix', dict(arch=PVT_ACMIX), (8, 16, 40, 64), STRIDES, dict(arch='t')),
    Family('CMT', dict(arch=CMT), (8, 16, 32, 64), STRIDES, dict(arch='ti')),
]
every_family = pytest.mark.parametrize('family', FAMILIES, ids=lambda family: family.type)


class Wrapper(nn.Module):
    """Holds a module as an adapter does, counts its calls, and multiplies its output."""

    def __init__(self, module: nn.Module, factor: float = 2.0) -> None:
        super().__init__()
        self.module = module
        self.factor = factor
        self.calls = 0

    def forward(self, *args: Any) -> Any:
        self.calls += 1
        out = self.module(*args)
        return out if self.factor == 1 else self.factor * out


@contextmanager
def wrapped(network: nn.Module, name: str, factor: float = 2.0) -> Iterator[Wrapper]:
    """Put a wrapper in the place of a submodule while the context is open."""
    parent, _, child = name.rpartition('.')
    wrapper = Wrapper(network.get_submodule(name), factor)
    network.get_submodule(parent).register_module(child, wrapper)
    try:
        yield wrapper
    finally:
        network.get_submodule(parent).register_module(child, wrapper.module)


def blocks(backbone: HybridBackbone) -> list[nn.Module]:
    """Return the blocks of all stages, with what some stages have before or after them."""
    return [block for stage in backbone.stages for block in getattr(stage, 'blocks', stage)]


def randomise_norms(network: nn.Module) -> None:
    """Give BatchNorms random weights and statistics; those of a new network hide mistakes."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(norm.running_var, 0.5, 2)


def parameters_of_acmix(network: nn.Module) -> int:
    """Count the parameters that ACmix adds to its host."""
    kinds = (ConvolutionPath, PathSum)
    return sum(p.numel() for m in network.modules() if isinstance(m, kinds) for p in m.parameters())
