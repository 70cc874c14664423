"""Train with backbone and neck compiled by ``torch.compile``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..builders import leaf_datasets
from ..errors import UserError

#: Sides of padded images are multiples of it, as FPN and most backbones want them.
_DIVISOR = 32


class FixedPad(nn.Module):
    """Pads a batch of mmdet's to one size if it is wider than high, else to that size turned.

    Args:
        short: Of the two sides, in pixels.
        long: The other.
        **kwargs: Of mmdet's ``BatchFixedSizePad``, which pads.
    """

    def __init__(self, short: int, long: int, **kwargs: Any) -> None:
        super().__init__()
        pad = dict(type='mmdet.BatchFixedSizePad', **kwargs)
        self.wide = MODELS.build(dict(pad, size=(short, long)))
        self.high = MODELS.build(dict(pad, size=(long, short)))

    def forward(
        self, inputs: Tensor, data_samples: Sequence[Any] | None = None
    ) -> tuple[Tensor, Sequence[Any] | None]:
        """(B, 3, H, W) -> (B, 3, short, long) or (B, 3, long, short)."""
        height, width = inputs.shape[-2:]
        return (self.wide if width >= height else self.high)(inputs, data_samples)


class CompileHook(Hook):
    """Compiles backbone and neck for training; validation, of many sizes, runs as it is.

    A detector's images are padded to the largest size of its training pipeline, so that there are
    two sizes at most: each other one would be compiled anew. Names of weights stay.

    Args:
        backend: Of ``torch.compile``.

    Raises:
        UserError: For an unknown backend, or a PyTorch that is too old.
    """

    def __init__(self, backend: str = 'inductor') -> None:
        if not hasattr(torch.compiler, 'set_stance'):
            raise UserError(f'--compile needs PyTorch 2.6, this is {torch.__version__}')
        backends = torch.compiler.list_backends(exclude_tags=())
        if backend not in backends:
            raise UserError(f'--compile must be one of {", ".join(backends)}, got {backend!r}')
        self.backend, self.count = backend, 0

    def before_train(self, runner: Runner) -> None:
        """Compile, which takes place at the first images of each size."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        preprocessor = model.data_preprocessor
        if hasattr(preprocessor, 'pad_seg') and (sides := training_size(runner.cfg)):
            names = ('pad_mask', 'mask_pad_value', 'pad_seg', 'seg_pad_value')
            pad = FixedPad(*sides, **{name: getattr(preprocessor, name) for name in names})
            preprocessor.batch_augments = nn.ModuleList([*(preprocessor.batch_augments or ()), pad])
        for name in ('backbone', 'neck'):
            if isinstance(module := getattr(model, name, None), nn.Module):
                module.compile(backend=self._compile, dynamic=False)

    def before_val(self, runner: Runner) -> None:
        """Run without the compiler."""
        torch.compiler.set_stance('force_eager')

    def after_val(self, runner: Runner) -> None:
        """Train with the compiler again."""
        torch.compiler.set_stance('default')

    def after_train(self, runner: Runner) -> None:
        """Say how often it was compiled."""
        runner.logger.info(f'{self.backend} compiled {self.count} graphs of backbone and neck')

    def _compile(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        # As the documentation of custom backends has it; there is no public counter.
        from torch._dynamo import lookup_backend

        self.count += 1
        return lookup_backend(self.backend)(graph, inputs)


def training_size(cfg: Mapping[str, Any]) -> tuple[int, int] | None:
    """Find the largest size of the images that a training pipeline gives.

    Args:
        cfg: The whole config.

    Returns:
        Short and long side, multiples of 32, in pixels; None if no step tells.
    """
    dataset = cfg['train_dataloader']['dataset']
    leaves = leaf_datasets('dataset', dataset)
    # A wrapper's own steps, such as Mosaic's, come after those of what it wraps.
    last = [leaf.get('pipeline') or () for _, leaf in leaves]
    if dataset.get('pipeline') and 'dataset' in dataset:
        last = [dataset['pipeline']]
    sizes = [size for steps in last for size in _sizes(steps)]
    if not sizes:
        return None
    short, long = max(map(min, sizes)), max(map(max, sizes))
    return -(-short // _DIVISOR) * _DIVISOR, -(-long // _DIVISOR) * _DIVISOR


def _sizes(steps: Iterable[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Return the sizes that the last resizing of some steps may give."""
    found: list[tuple[int, int]] = []
    for step in steps:
        choices = step.get('transforms')
        if choices and step.get('type') == 'RandomChoice':
            found = [size for choice in choices for size in _sizes(choice)] or found
        elif sizes := list(_scales(step)):
            found = sizes
    return found


def _scales(step: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    if 'Resize' not in str(step.get('type')):
        return
    scale = step.get('scales', step.get('scale')) or ()
    largest = max(step.get('ratio_range') or (1,))
    for size in scale if isinstance(scale, list) else [scale]:
        if isinstance(size, tuple | list) and len(size) == 2:
            yield int(size[0] * largest), int(size[1] * largest)
