"""Parameters and multiply-adds of the network that a config describes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Complexity:
    """What a network costs for one image.

    Attributes:
        parameters: Number of parameters, frozen ones included.
        multiply_adds: Of convolutions, linear layers and matrix products, attention's included; a
            multiplication and its addition count as one.
        attention: The part of ``multiply_adds`` that is attention's two products.
    """

    parameters: int
    multiply_adds: int
    attention: int


def complexity(cfg: Config, shape: tuple[int, int]) -> Complexity:
    """Count a whole model: backbone, neck and heads, without what turns maps into boxes.

    Nothing is computed and no weights are loaded: tensors have shapes alone (the meta device).

    Args:
        cfg: Config of a detector, a segmenter or a classifier.
        shape: Height and width of the image in pixels.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model_cfg = cfg.model.copy()
    model_cfg.backbone.init_cfg = None
    with torch.device('meta'):
        model = MODELS.build(model_cfg).eval()
    image = torch.empty(1, 3, *shape, device='meta')
    counter = FlopCounterMode(display=False)
    # The plain form of attention: its two products are counted as what they are.
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(image, None, mode='tensor')
    by_op = {str(op): flops for op, flops in counter.get_flop_counts()['Global'].items()}
    return Complexity(
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
        attention=by_op.get('aten.bmm', 0) // 2,
    )
