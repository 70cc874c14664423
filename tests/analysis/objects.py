"""Detectors with random weights that find something."""

from typing import Any

import torch


@torch.no_grad()
def find_objects(model: Any, height: int, width: int) -> None:
    """Have a dense head give scores of all sizes, and boxes that differ from its priors.

    Args:
        model: RetinaNet or FCOS.
        height: Of the images in pixels.
        width: Of the images in pixels.
    """
    head = model.bbox_head
    names = (
        ('retina_cls', 'retina_reg') if hasattr(head, 'retina_cls') else ('conv_cls', 'conv_reg')
    )
    pixels = torch.randint(256, (1, 3, height, width))
    image = model.data_preprocessor(dict(inputs=pixels, data_samples=None))['inputs']
    classes, boxes, *_ = model(image, mode='tensor')
    for name, maps, bias in zip(names, (classes, boxes), (-4.0, 0.5), strict=True):
        layer = getattr(head, name)
        layer.weight /= maps[0].std()
        layer.bias.fill_(bias)
