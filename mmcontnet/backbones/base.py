"""What the backbones of every family share: arguments, freezing, recomputation, outputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict

import torch
import torch.fx
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..layers import Bottleneck, ConvolutionPath
from ..ops import force_reference, reference_forced

NUM_STAGES = 4


class BackboneKwargs(TypedDict, total=False):
    """The arguments that every backbone hands on to :class:`HybridBackbone`."""

    in_channels: int
    out_indices: int | Sequence[int]
    frozen_stages: int
    norm_eval: bool
    with_cp: bool
    init_cfg: dict | list[dict] | None


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


def init_parameters(
    network: nn.Module,
    *,
    convolutions: bool = False,
    linear_layers: bool = False,
    shift_init: str = 'shift',
    zero_init_residual: bool = False,
) -> None:
    """Initialise a network's layers; ACmix's convolution paths have a start of their own.

    Args:
        network: The network.
        convolutions: Give convolutions He's normal distribution by fan-out, and zero biases.
        linear_layers: Give linear layers a truncated normal distribution of standard deviation
            0.02, and zero biases.
        shift_init: Start of ACmix's shift convolutions, see :meth:`ConvolutionPath.init_shift`.
        zero_init_residual: Start the last norm of each bottleneck at zero, and so each bottleneck
            as its shortcut (arXiv:1706.02677, section 5.1).

    Raises:
        ValueError: For another ``shift_init``.
    """
    paths = [module for module in network.modules() if isinstance(module, ConvolutionPath)]
    for path in paths:
        path.init_shift(shift_init)
    if zero_init_residual:
        for module in network.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.norm3.weight)
    skipped = {module for path in paths for module in path.modules()}
    for module in network.modules():
        if module in skipped:
            continue
        if convolutions and isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
        elif linear_layers and isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Stage(nn.Module):
    """A stage of a backbone; its call computes it, (B, C, H, W) -> (B, C', H', W').

    Attributes:
        with_cp: Whether :meth:`run` recomputes blocks in backward. The backbone sets it.
    """

    with_cp = False

    def run(self, block: nn.Module, *args: Tensor | None) -> Tensor:
        """Call a block; with ``with_cp``, keep nothing but its input and recompute the rest."""
        if not (self.with_cp and torch.is_grad_enabled()):
            return block(*args)

        def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
            return nullcontext(), _Recomputation(block)

        return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)


class SequentialStage(Stage, nn.Sequential):
    """A stage whose children are its blocks, which run one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        for block in self:
            # Recomputing a pool would save next to nothing.
            x = block(x) if isinstance(block, nn.AvgPool2d) else self.run(block, x)
        return x


class _Recomputation(AbstractContextManager):
    """Compute a block again in backward, as before, without BatchNorm counting the batch twice.

    It takes the reference's way if forward did. It can be entered again, since a graph that is
    retained goes backward more than once.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.reference_forced = reference_forced()

    def __enter__(self) -> None:
        self.reference = force_reference() if self.reference_forced else nullcontext()
        self.reference.__enter__()
        norms = [m for m in self.block.modules() if isinstance(m, _BatchNorm) and m.training]
        self.kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm, _, counter in self.kept:
            # The statistics are updated by nothing, and the counter that moves is a copy.
            norm.momentum = 0.0
            norm.num_batches_tracked = counter.clone() if counter is not None else None

    def __exit__(self, *exception: object) -> None:
        for norm, momentum, counter in self.kept:
            norm.momentum, norm.num_batches_tracked = momentum, counter
        self.reference.__exit__(None, None, None)


class HybridBackbone(BaseModule):
    """Base of all backbones: a stem and up to four stages.

    Args:
        build_stem: Makes the stem, from the image to the input of the first stage, for a number of
            channels of the image.
        build_stage: Makes the stage of a number, counted from 0. It is called for the stages up to
            the last that an output needs.
        channels: Output channels of all four stages.
        strides: Output strides of all four stages, in pixels of the input image.
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

    stem: nn.Module
    stages: nn.ModuleList

    def __init__(
        self,
        build_stem: Callable[[int], nn.Module],
        build_stage: Callable[[int], nn.Module],
        channels: Sequence[int],
        strides: Sequence[int],
        /,
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
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self._stage_channels = tuple(channels)
        self._stage_strides = tuple(strides)
        # Stages first: the order decides which random weights a seed gives.
        stages = [build_stage(i) for i in range(max(self.out_indices) + 1)]
        self.stem = build_stem(in_channels)
        self.stages = nn.ModuleList(stages)
        self.with_cp = with_cp
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show all arguments where the constructor has ``**kwargs``, to help() and to checks."""
        super().__init_subclass__(**kwargs)
        if '__init__' not in vars(cls):
            return
        _, *own = inspect.signature(cls.__init__).parameters.values()
        shown = [p for p in own if p.kind is not p.VAR_KEYWORD]
        if len(shown) < len(own):
            # Not a mixin.
            base = next(b for b in cls.__mro__[1:] if issubclass(b, HybridBackbone))
            names = {p.name for p in shown}
            shown += [
                p.replace(kind=p.KEYWORD_ONLY)
                for p in inspect.signature(base).parameters.values()
                if p.kind is not p.POSITIONAL_ONLY and p.name not in names
            ]
        cls.__signature__ = inspect.Signature(shown)

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

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the outputs, in the order of ``out_indices``."""
        return tuple(self._stage_channels[i] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Strides of the outputs in input pixels, in the order of ``out_indices``."""
        return tuple(self._stage_strides[i] for i in self.out_indices)

    @property
    def with_cp(self) -> bool:
        """Whether blocks are recomputed in backward."""
        return any(stage.with_cp for stage in self.modules() if isinstance(stage, Stage))

    @with_cp.setter
    def with_cp(self, with_cp: bool) -> None:
        for module in self.modules():
            if isinstance(module, Stage):  # stems may be one too
                module.with_cp = with_cp

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Tell how deep a parameter lies, for learning rates that decay by layer.

        As in mmpretrain's backbones, the stem is layer 0, each block is one more, and the head is
        the last. What lies between two blocks belongs to the later one.

        Args:
            param_name: Of a parameter of the model.
            prefix: Of the backbone's names there; names without it are the head's.

        Returns:
            The layer, and the number of layers.
        """
        layers = {f'{prefix}stem.': 0}
        depth, between = 0, []
        for i, stage in enumerate(self.stages):
            for name, child in stage.named_children():
                several = isinstance(child, nn.ModuleList)
                for number, part in child.named_children() if several else [('', child)]:
                    between.append(f'{prefix}stages.{i}.{name}.{number}'.rstrip('.') + '.')
                    if any(isinstance(module, DropPath) for module in part.modules()):  # a block
                        depth += 1
                        layers.update(dict.fromkeys(between, depth))
                        between.clear()
        found = (layer for start, layer in layers.items() if param_name.startswith(start))
        return next(found, depth + 1), depth + 2

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
        _check_images(x, self.in_channels, type(self).__name__)
        try:
            outs = self._compute(x)
        except ValueError as error:
            if len(x) != 1 or not self._starves_a_norm(x):
                raise
            raise ValueError(
                f'{type(self).__name__} in training cannot take images of shape {tuple(x.shape)}: '
                'BatchNorm in training mode needs more than one value per channel; use a batch '
                'size > 1, larger images, or norm_eval=True'
            ) from error
        # Compiled operators, mmcv's RoIAlign for one, read memory as NCHW whatever the strides say,
        # and necks hand on the memory format that they get.
        return tuple(outs[i].contiguous() for i in self.out_indices)

    def _compute(self, x: Tensor) -> dict[int, Tensor]:
        """Run stem and stages; return the outputs by stage."""
        # Channels-last makes the token layout (B, H, W, C) of the attention layers a free view.
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        outs = {}
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs[i] = self._output(i, x)
        return outs

    def _output(self, i: int, x: Tensor) -> Tensor:
        """Make the output of stage i of the map that it hands on, (B, C, H, W) -> the same."""
        return x

    def _starves_a_norm(self, x: Tensor) -> bool:
        """Return whether a BatchNorm in training mode would get one value per channel.

        Asked after a ValueError only: it computes the maps again, with these norms in eval mode,
        and looks at the shapes that reach them.
        """
        norms = [m for m in self.modules() if isinstance(m, _BatchNorm) and m.training]
        values: list[int] = []

        def count(norm: nn.Module, args: tuple[Tensor]) -> None:
            values.append(args[0].numel() // args[0].shape[1])

        hooks = [norm.register_forward_pre_hook(count) for norm in norms]
        try:
            for norm in norms:
                norm.eval()
            with torch.no_grad():
                self._compute(x)
        finally:
            for norm, hook in zip(norms, hooks, strict=True):
                norm.train()
                hook.remove()
        return 1 in values


def _check_images(x: Tensor, in_channels: int, backbone: str) -> None:
    if x.dim() != 4 or x.shape[1] != in_channels or min(x.shape[2:]) < 1:
        raise ValueError(
            f'{backbone} takes images of shape (B, {in_channels}, H, W) with H and W of at least '
            f'1, got {tuple(x.shape)}'
        )


# torch.fx must not trace into it: it branches on the shape.
torch.fx.wrap('_check_images')
