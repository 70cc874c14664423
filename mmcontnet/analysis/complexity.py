"""Parameters and MACs of the network that a config describes, by its parts.

Nothing is computed: tensors have shapes alone (the meta device). MACs are half of
what PyTorch's ``FlopCounterMode`` counts: convolutions, linear layers, matrix products (attention's
two included), and whatever else has a formula. An op that PyTorch cannot see into, say a Triton
kernel or local aggregation, joins in the file that defines it: it is a ``torch.library`` op with a
fake implementation, and states its cost beside it::

    @register_flop_formula(torch.ops.mmcontnet.local_aggregation)
    def flops(v_shape, w_shape, *args, out_shape, **kwargs):
        return 2 * 9 * math.prod(out_shape)  # by convention two for a multiply-add
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..builders import build_model, network_errors
from ..layers import PositionBias
from ..ops import force_reference
from .inspection import image_channels
from .results import read_figures

# How OpenMMLab's backbones name their stages, counted from 0 or from 1, and the norms and the
# downsampling that some keep beside them (ConvNeXt's downsample_layers.0 is its stem).
_STAGE = re.compile(
    r'(?:stages\.|layers\.|norm|downsample_layers\.(?!0))(?P<from0>\d+)|(?:layer|stage)(?P<from1>\d+)'
)
#: Products of two computed matrices: attention's.
_PRODUCTS = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)


@dataclass
class Cost:
    """What a network or a part of it costs for one image.

    Attributes:
        parameters: Number of parameters, frozen ones and those of auxiliary heads included.
        multiply_adds: MACs of what is counted.
        attention: The share of ``multiply_adds`` in products of two computed matrices: attention's.
    """

    parameters: int = 0
    multiply_adds: int = 0
    attention: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass
class Complexity:
    """Costs by part, in the order in which the model holds them.

    Attributes:
        parts: ``stem``, ``stage 1`` and so on for the backbone (``backbone`` where the names of its
            modules tell no stages), and the model's other children under their own names: ``neck``,
            ``rpn_head``, ``decode_head`` ...
    """

    parts: dict[str, Cost]

    @property
    def total(self) -> Cost:
        """The sum of all parts."""
        return sum(self.parts.values(), Cost())


def default_shape(cfg: Config) -> tuple[int, int]:
    """Return the size at which a config is best compared, (height, width) in pixels."""
    figure = read_figures().get(Path(cfg.filename).name)
    if figure is not None:
        return tuple(figure['shape'])
    if cfg.get('default_scope') == 'mmpretrain':
        return 224, 224
    if cfg.get('default_scope') == 'mmseg' and cfg.get('crop_size'):
        return tuple(cfg.crop_size)
    return 784, 1344


def complexity(cfg: Config, shape: tuple[int, int]) -> Complexity:
    """Count a whole model: backbone, neck and heads, without what turns maps into boxes.

    The second stage of a two-stage detector is counted for as many proposals as its ``test_cfg``
    lets through, the mask head for those that mmdet's ``mode='tensor'`` takes: 100, but all of them
    in a cascade. Auxiliary heads, which run in training only, cost parameters alone.

    Args:
        cfg: Config of a detector, a segmenter or a classifier.
        shape: Height and width of the image in pixels.

    Raises:
        UserError: If the model cannot be built or run on shapes alone.
    """
    model: Any = build_model(cfg, meta=True)
    image, samples = torch.empty(1, image_channels(model), *shape), describe_images(shape, 1)
    with network_errors(f'the model cannot be counted at {shape[0]} x {shape[1]}'):
        if hasattr(model, 'rpn_head') and hasattr(model, 'roi_head'):
            boxes = torch.empty(model.test_cfg.rpn.max_per_img, 4, device='meta')
            stand_in_for_proposals(model, boxes)
        return count(model, image, samples, mode='tensor')


def describe_images(shape: tuple[int, int], count: int) -> list[BaseDataElement]:
    """Return what a model gets to know of images of a size."""
    sizes = dict.fromkeys(('img_shape', 'batch_input_shape', 'pad_shape', 'ori_shape'), shape)
    metainfo = dict(**sizes, scale_factor=(1.0, 1.0))
    return [BaseDataElement(metainfo=metainfo) for _ in range(count)]


def stand_in_for_proposals(model: Any, boxes: Tensor, seen: list[Any] | None = None) -> None:
    """Replace what depends on the image's contents.

    Args:
        model: A two-stage detector.
        boxes: Proposals of every image, (N, 4).
        seen: Where to keep what the first stage has computed.
    """

    def propose(*maps: Any, batch_img_metas: list[Any], **kwargs: Any) -> list[InstanceData]:
        if seen is not None:
            seen.append(maps)
        return [InstanceData(bboxes=boxes) for _ in batch_img_metas]

    model.rpn_head.predict_by_feat = propose
    for module in model.roi_head.modules():
        if hasattr(module, 'roi_layers'):
            module.forward = partial(_roi_features, module)


def _roi_features(extractor: Any, maps: tuple[Tensor, ...], rois: Tensor, *args: Any) -> Tensor:
    size = extractor.roi_layers[0].output_size
    return maps[0].new_empty(len(rois), extractor.out_channels, *size)


def count(model: nn.Module, image: Tensor, *args: Any, **kwargs: Any) -> Complexity:
    """Count one call of a model; afterwards it is on the meta device, in eval mode.

    Args:
        model: Any module.
        image: Its first argument; only the shape is used.
        args: Further arguments.
        kwargs: Further arguments.
    """
    # The counter follows gradients through modules, and fails at views of parameters.
    model.to('meta').requires_grad_(False)
    model.eval()  # which in mmpretrain returns nothing
    modules = dict(model.named_modules(remove_duplicate=False))  # some are shared
    parts: defaultdict[str, Cost] = defaultdict(Cost)
    for name, parameter in model.named_parameters():
        parts[_part(name)] += Cost(parameter.numel())
    # The plain form of attention: its two products are counted as what they are.
    counter = FlopCounterMode(display=False)
    with force_reference(), counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(image.to('meta'), *args, **kwargs)
    counts = {
        name.partition('.')[2]: Cost(
            0,
            sum(flops.values()) // 2,
            sum(flops.get(op, 0) for op in _PRODUCTS) // 2,
        )
        for name, flops in counter.get_flop_counts().items()
        if name != 'Global'
    }
    for name, cost in counts.items():
        if isinstance(modules[name], nn.Linear):
            parts[_part(name)] += Cost(0, cost.multiply_adds)  # some are batches of products, too
        elif not isinstance(modules[name], PositionBias):  # interpolation is free, as in an FPN
            parts[_part(name)] += cost
        # A module's count includes those of the modules within it, which are taken off again.
        while name:
            name = name.rpartition('.')[0]
            if name in counts:
                parts[_part(name)] += Cost(0, -cost.multiply_adds, -cost.attention)
                break
    if not any(name.startswith('stage ') for name in parts):
        parts['backbone'] = parts.pop('stem', Cost())
    order = sorted(parts, key=_place)
    return Complexity({name: parts[name] for name in order if parts[name] != Cost()})


def _part(name: str) -> str:
    """Tell which part a module or a parameter belongs to by its name in the model."""
    child, _, rest = name.partition('.')
    if child != 'backbone':
        return child
    stage = _STAGE.match(rest)
    if stage is None:
        return 'stem'
    return f'stage {int(stage["from0"]) + 1}' if stage['from0'] else f'stage {stage["from1"]}'


def _place(part: str) -> int:
    """Put the stem first and the stages in their order before the rest."""
    if part == 'stem':
        return 0
    return int(part.partition(' ')[2]) if part.startswith('stage ') else 1000
