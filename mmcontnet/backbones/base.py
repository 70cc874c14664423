"""What the backbones of every family share: arguments, freezing, recomputation, outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

NUM_STAGES = 4

#: How PyTorch's BatchNorm says that it has no statistics to take.
_ONE_PIXEL = 'Expected more than 1 value per channel'


def resolve_arch(
    arch: str | Mapping[str, Any], archs: Mapping[str, Mapping[str, Any]], family: str
) -> dict[str, Any]:
    """Look up an architecture by name, or check one that is given as a dict.

    Args:
        arch: A key of ``archs``, or a mapping with exactly the fields of its entries.
        archs: The family's table.
        family: The backbone's class name, for the error messages.

    Returns:
        A new dict with the fields of the architecture.

    Raises:
        ValueError: For an unknown name, or missing or unknown fields.
    """
    if isinstance(arch, str):
        if arch not in archs:
            raise ValueError(f'{family} has no arch {arch!r}; choose from {sorted(archs)}')
        return dict(archs[arch])
    fields = set(next(iter(archs.values())))
    if not isinstance(arch, Mapping) or set(arch) != fields:
        given = sorted(arch) if isinstance(arch, Mapping) else repr(arch)
        raise ValueError(
            f'{family}: arch must be one of {sorted(archs)} or a dict with the fields '
            f'{sorted(fields)}, got {given}'
        )
    like = next(iter(archs.values()))
    for field, value in arch.items():
        if isinstance(like[field], tuple) and (
            not isinstance(value, Sequence) or len(value) != len(like[field])
        ):
            raise ValueError(
                f'{family}: {field} of an arch must have {len(like[field])} values, got {value!r}'
            )
    if any(not isinstance(depth, int) or depth < 1 for depth in arch['depths']):
        raise ValueError(f'{family}: depths of an arch must be positive, got {arch["depths"]!r}')
    return dict(arch)


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise a ValueError that names the choices unless ``value`` is one of them."""
    if value not in choices:
        raise ValueError(f'{name} must be one of {", ".join(map(repr, choices))}, got {value!r}')


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Let stochastic depth rise linearly over the blocks.

    Args:
        rate: Of the last block; that of the first is 0.
        depths: Blocks of each stage.

    Returns:
        The rates, by stage and block.
    """
    steps = max(1, sum(depths) - 1)
    return [
        [rate * (sum(depths[:i]) + j) / steps for j in range(depth)]
        for i, depth in enumerate(depths)
    ]


class HybridBackbone(BaseModule):
    """Base of all backbones: a stem and up to four stages.

    A subclass builds its stem and the stages ``0 .. self.last_stage`` (no parameters for what no
    output needs) and hands them to :meth:`assemble` at the end of its constructor.

    Args:
        in_channels: Channels of the input image.
        out_indices: Stages whose outputs are returned, in that order; counted 0-3, or from the end
            (-1 is the last). An int stands for one stage.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages.
        norm_eval: Keep all BatchNorm layers in eval mode while training.
        with_cp: Save memory in training by recomputing every block in backward.
        init_cfg: mmengine's initialisation config, for instance ``dict(type='Pretrained', ...)``.

    Raises:
        ValueError: For values outside of what is described above.
    """

    #: Smallest height and width that the stem can take.
    min_input_size = 1

    stem: nn.Module
    stages: nn.ModuleList

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (3,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not isinstance(in_channels, int) or in_channels < 1:
            raise ValueError(f'in_channels must be a positive int, got {in_channels!r}')
        if frozen_stages not in range(-1, NUM_STAGES + 1):
            raise ValueError(f'frozen_stages must be in -1..{NUM_STAGES}, got {frozen_stages!r}')
        self.in_channels = in_channels
        self.out_indices = self._normalise_out_indices(out_indices)
        self.last_stage = max(self.out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp

    @staticmethod
    def _normalise_out_indices(out_indices: int | Sequence[int]) -> tuple[int, ...]:
        given = tuple(out_indices) if isinstance(out_indices, Sequence) else (out_indices,)
        valid = range(-NUM_STAGES, NUM_STAGES)
        if not given or any(not isinstance(i, int) or i not in valid for i in given):
            raise ValueError(
                f'out_indices must be one or more stages in -{NUM_STAGES}..{NUM_STAGES - 1}, '
                f'got {out_indices!r}'
            )
        stages = tuple(i % NUM_STAGES for i in given)
        if len(set(stages)) != len(stages):
            raise ValueError(f'out_indices names a stage twice: {out_indices!r}')
        return stages

    def assemble(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        channels: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        """Register what the subclass built, and freeze what ``frozen_stages`` says.

        Args:
            stem: From the image to the input of the first stage.
            stages: The stages ``0 .. self.last_stage``; each an iterable of blocks.
            channels: Output channels of all four stages.
            strides: Output strides of all four stages, in pixels of the input image.
        """
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self._stage_channels = tuple(channels)
        self._stage_strides = tuple(strides)
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the outputs, in the order of ``out_indices``."""
        return tuple(self._stage_channels[i] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Strides of the outputs in input pixels, in the order of ``out_indices``."""
        return tuple(self._stage_strides[i] for i in self.out_indices)

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.stem, *self.stages[: self.frozen_stages]]

    def train(self, mode: bool = True) -> HybridBackbone:
        """Set the training mode; frozen parts (and BatchNorm, if ``norm_eval``) stay in eval."""
        super().train(mode)
        if mode:
            for module in self._frozen_modules():
                module.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x: Images, (B, C, H, W).

        Returns:
            For every stage i of ``out_indices`` a map (B, C_i, ceil(H / s_i), ceil(W / s_i)),
            contiguous. Without images, B = 0, the maps are empty and nothing is learnt.

        Raises:
            ValueError: If the rank, the number of channels or the size cannot be computed. Also
                for a single image in training if BatchNorm, which is not in eval mode, would take
                its statistics of a single pixel: of a small image's last map, or where CoTNet has
                squeezed a map to its mean.
        """
        self._check_input(x)
        shape = tuple(x.shape)
        try:
            # Channels-last makes the token layout (B, H, W, C) of the attention layers a free view.
            x = self.forward_stem(x.contiguous(memory_format=torch.channels_last))
            outs = {}
            for i, stage in enumerate(self.stages):
                x = self.forward_stage(stage, x)
                outs[i] = x
        except ValueError as error:
            if not str(error).startswith(_ONE_PIXEL):
                raise
            raise ValueError(
                f'{type(self).__name__} in training cannot take images of shape {shape}: a '
                'BatchNorm has one value per channel. Several images, or norm_eval=True, are '
                'accepted'
            ) from error
        # Compiled operators, mmcv's RoIAlign for one, read memory as NCHW whatever the strides say,
        # and necks hand on the memory format that they get.
        return tuple(
            self.forward_output(self.stages[i], outs[i]).contiguous() for i in self.out_indices
        )

    def forward_stem(self, x: Tensor) -> Tensor:
        """Run the stem, (B, C, H, W) -> (B, C', H', W')."""
        return self.stem(x)

    def forward_stage(self, stage: Any, x: Tensor) -> Tensor:
        """Run the blocks of a stage one after the other, (B, C, H, W) -> (B, C', H', W')."""
        for block in stage.children():
            x = self.run_block(block, x)
        return x

    def forward_output(self, stage: Any, x: Tensor) -> Tensor:
        """Make an output of what a stage hands on to the next, (B, C, H, W) -> the same shape."""
        return x

    def run_block(self, block: nn.Module, *args: Tensor | None) -> Tensor:
        """Call a block, or checkpoint it if ``with_cp``."""
        if not (self.with_cp and torch.is_grad_enabled()):
            return block(*args)

        def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
            return nullcontext(), _frozen_running_stats(block)

        return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)

    def _check_input(self, x: Tensor) -> None:
        least = self.min_input_size
        if x.dim() != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < least:
            raise ValueError(
                f'{type(self).__name__} takes images of shape (B, {self.in_channels}, H, W) with '
                f'H and W of at least {least}, got {tuple(x.shape)}'
            )


@contextmanager
def _frozen_running_stats(module: nn.Module) -> Iterator[None]:
    """Keep BatchNorm from counting a batch twice when its block is computed again in backward."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    kept = [(m.momentum, m.num_batches_tracked) for m in norms]
    for norm, (_, counter) in zip(norms, kept, strict=True):
        # The statistics are updated by nothing, and the counter that moves is a copy.
        norm.momentum = 0.0
        norm.num_batches_tracked = counter.clone() if counter is not None else None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
