"""Networks with random weights whose results depend on the image."""

from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from torch import nn


@torch.no_grad()
def spread_scores(model: Any, height: int, width: int) -> None:
    """Have a classifier or a segmenter give logits with a standard deviation of 3.

    Args:
        model: Of mmpretrain, with a linear head, or of mmseg.
        height: Of the images in pixels.
        width: Of the images in pixels.
    """
    pixels = torch.randint(256, (1, 3, height, width))
    segments = hasattr(model, 'decode_head')
    inputs = dict(inputs=list(pixels) if segments else pixels, data_samples=None)
    logits = model(model.data_preprocessor(inputs)['inputs'], mode='tensor')
    layer = model.decode_head.conv_seg if segments else model.head.fc
    for parameter in layer.parameters():
        parameter *= 3 / logits.std()


@torch.no_grad()
def find_objects(model: Any, height: int, width: int) -> None:
    """Have a detector's heads give scores of all sizes, and boxes that differ from one another.

    Args:
        model: RetinaNet, FCOS, Faster, Mask or Cascade R-CNN.
        height: Of the images in pixels.
        width: Of the images in pixels.
    """
    pixels = torch.randint(256, (1, 3, height, width))
    image = model.data_preprocessor(dict(inputs=pixels, data_samples=None))['inputs']
    features = model.extract_feat(image)
    head = model.rpn_head if hasattr(model, 'rpn_head') else model.bbox_head
    classes, boxes, *_ = head(features)
    prefix = next(n for n in ('retina', 'rpn', 'conv') if hasattr(head, f'{n}_cls'))
    for name, maps, bias in (('cls', classes, -4.0), ('reg', boxes, 0.5)):
        layer = getattr(head, f'{prefix}_{name}')
        layer.weight /= maps[0].std()
        layer.bias.fill_(bias)
    if not hasattr(model, 'rpn_head'):
        return
    sample = DetDataSample(metainfo=dict(img_shape=(height, width)))
    rois = bbox2roi([model.rpn_head.predict(features, [sample])[0].bboxes])
    heads = model.roi_head.bbox_head
    cascade = isinstance(heads, nn.ModuleList)
    for i, head in enumerate(heads if cascade else [heads]):
        found = model.roi_head._bbox_forward(*[i] * cascade, features, rois)
        head.fc_cls.weight *= 1.5 / found['cls_score'].std()
        head.fc_reg.weight /= found['bbox_pred'].std()
