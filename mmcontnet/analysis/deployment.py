"""Whole networks as functions of pixels, in operations that ONNX has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor, nn

from ..engine.needs import head_classes
from ..errors import UserError

#: What a file of each package's networks returns, see :class:`WholeNetwork`.
OUTPUTS = dict(
    mmpretrain=('scores',), mmseg=('labels', 'logits'), mmdet=('boxes', 'scores', 'labels')
)


class WholeNetwork(nn.Module):
    """A network from pixels to scores, maps or boxes.

    Images are (B, C, H, W), as they leave the resize step of the test pipeline: in 0-255, with the
    channels as they are loaded. The data preprocessor is a part of the network.

    - Classifiers return ``scores``, (B, classes).
    - Segmenters return ``labels``, (B, 1, H, W), and ``logits``, (B, classes, H, W).
    - Detectors take one image, and the height and width without its padding, (2,). They return
      ``boxes``, (N, 4) in pixels of the image, ``scores``, (N,), and ``labels``, (N,), best first;
      those with masks also ``masks``, (N, h, w): how likely each point of a grid over the box is
      the object's.

    Args:
        model: Of mmpretrain, mmseg or mmdet.
        scope: The package.

    Raises:
        UserError: If this kind of network cannot be written whole.
    """

    def __init__(self, model: BaseModel, scope: str) -> None:
        super().__init__()
        if scope not in OUTPUTS:
            raise UserError(f'default_scope must be one of {", ".join(OUTPUTS)}, not {scope}')
        self.model: Any = model
        self.scope, self.names = scope, OUTPUTS[scope]
        self.softmax = scope == 'mmpretrain' and _is_softmax(model)
        #: Whether images can be a batch of any size.
        self.any_batch = scope == 'mmseg' or self.softmax
        if scope == 'mmdet':
            _check_detector(model)
            if getattr(model, 'with_mask', False):
                self.names = (*self.names, 'masks')
            for module in model.modules():
                if type(module).__name__ == 'RoIAlign':
                    module.use_torchvision = True  # ONNX has no other
                elif hasattr(module, 'roi_layers'):
                    module.forward = partial(_pool, module)

    def forward(self, image: Tensor, size: Tensor | None = None) -> Any:
        """Compute what the class says."""
        shape, preprocessor = image.shape[2:], self.model.data_preprocessor
        if self.scope == 'mmseg':
            return self._segment(_normalise(preprocessor, image), *shape)
        image = preprocessor(dict(inputs=image, data_samples=None), False)['inputs']
        if self.scope == 'mmpretrain':
            return (self._classify(image),)
        return self._detect(image, torch.tensor(shape) if size is None else size)

    def _classify(self, image: Tensor) -> Tensor:
        if self.softmax:
            return self.model(image, mode='tensor').softmax(1)
        return torch.stack([sample.pred_score for sample in self.model.predict(image)])

    def _segment(self, image: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        if self.model.test_cfg.mode == 'slide':
            logits = _slide(self.model, image)
        else:
            logits = self.model.whole_inference(image, describe_image(image.shape[2:]))
        logits = logits[..., :height, :width]
        if logits.shape[1] > 1:
            return logits.argmax(1, keepdim=True), logits
        return (logits.sigmoid() > self.model.decode_head.threshold).long(), logits

    def _detect(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        features = self.model.extract_feat(image)
        if not hasattr(self.model, 'roi_head'):
            return _decode(self.model.bbox_head, self.model.bbox_head(features), size)
        rpn_head = self.model.rpn_head
        proposals, *_ = _decode(rpn_head, rpn_head(features), size, by='level')
        return _look_into(self.model.roi_head, features, proposals, size)


def describe_network(model: Any, cfg: Config) -> dict[str, Any]:
    """Tell networks apart: package, types of model and backbone, numbers of classes and parameters.

    Args:
        model: The network, which may be on the meta device.
        cfg: Its config.
    """
    return dict(
        scope=cfg.get('default_scope'),
        model=type(model).__name__,
        backbone=type(getattr(model, 'backbone', None)).__name__,
        classes=next(iter(head_classes(model).values()), None),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _is_softmax(model: Any) -> bool:
    """Tell whether a classifier's scores are the softmax of its logits."""
    from mmpretrain.models import ClsHead, ImageClassifier

    own = ('predict', '_get_predictions')
    return type(model) is ImageClassifier and all(
        getattr(type(model.head), n, None) is getattr(ClsHead, n) for n in own
    )


def _normalise(preprocessor: Any, image: Tensor) -> Tensor:
    """Do what mmseg's data preprocessor does to each image, to a batch of any size."""
    if preprocessor.test_cfg:
        raise UserError('what model.data_preprocessor.test_cfg pads cannot be exported')
    if preprocessor._channel_conversion and image.shape[1] == 3:
        image = image.flip(1)
    image = image.float()
    if preprocessor._enable_normalize:
        image = (image - preprocessor.mean) / preprocessor.std
    return image


def describe_image(shape: Sequence[int]) -> list[dict[str, Any]]:
    """Tell mmseg the size of an image, (height, width), which is not padded."""
    return [dict.fromkeys(('img_shape', 'pad_shape', 'ori_shape'), tuple(shape))]


def _slide(model: Any, image: Tensor) -> Tensor:
    """Average the logits of overlapping windows, as mmseg does: its own cannot be exported."""
    total: Any = 0
    count = torch.zeros(image.shape[2:])
    sides = zip(image.shape[2:], model.test_cfg.crop_size, model.test_cfg.stride, strict=True)
    # The last window ends at the border.
    tops, lefts = (
        [max(min(i * stride, side - crop), 0) for i in range(-(-max(side - crop, 0) // stride) + 1)]
        for side, crop, stride in sides
    )
    crop_height, crop_width = model.test_cfg.crop_size
    for top in tops:
        for left in lefts:
            window = image[..., top : top + crop_height, left : left + crop_width]
            height, width = window.shape[2:]
            right, bottom = image.shape[3] - left - width, image.shape[2] - top - height
            logits = model.encode_decode(window, describe_image((height, width)))
            total = total + F.pad(logits, (left, right, top, bottom))
            count[top : top + height, left : left + width] += 1
    return total / count


def _check_detector(model: Any) -> None:
    """Check that a detector's boxes are found as the functions below find them."""
    from mmdet.models import dense_heads, roi_heads
    from mmdet.models.detectors import SingleStageDetector, TwoStageDetector

    known = False
    if isinstance(model, SingleStageDetector):
        base = dense_heads.base_dense_head.BaseDenseHead
        own = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')
        known = all(getattr(type(model.bbox_head), n, n) is getattr(base, n) for n in own)
        nms = [('test_cfg', model.test_cfg)]
    elif isinstance(model, TwoStageDetector):
        roi_head, rpn_head = model.roi_head, getattr(model, 'rpn_head', None)
        extractors = [m for m in roi_head.modules() if hasattr(m, 'roi_layers')]
        heads = [m for m in roi_head.modules() if hasattr(m, 'bbox_coder')]
        known = (
            type(rpn_head) is dense_heads.RPNHead  # Fast R-CNN has none
            and type(roi_head) in (roi_heads.StandardRoIHead, roi_heads.CascadeRoIHead)
            and all(type(m) is roi_heads.SingleRoIExtractor for m in extractors)
            and all(isinstance(m, roi_heads.ConvFCBBoxHead) for m in heads)
            and not any(m.custom_activation for m in heads)
        )
        nms = [(f'test_cfg.{part}', model.test_cfg.get(part)) for part in ('rpn', 'rcnn')]
    coders = [type(m.bbox_coder).__name__ for m in model.modules() if hasattr(m, 'bbox_coder')]
    known &= 'LegacyDeltaXYWHBBoxCoder' not in coders  # which clips a pixel earlier than others
    if not known:
        raise UserError(
            f'{type(model).__name__} cannot be exported whole: its heads are none that '
            'are known; --raw exports backbone and neck'
        )
    for key, cfg in nms:
        if (kind := cfg.nms.get('type', 'nms')) != 'nms':
            raise UserError(f'model.{key}.nms.type must be nms to be exported, not {kind}')


def _decode(
    head: Any, maps: tuple[list[Tensor], ...], size: Tensor, by: str = 'label'
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the maps of a dense head into boxes, as its ``predict_by_feat`` does.

    There, how many candidates a level has depends on the scores, which torch.export cannot follow.
    Here a level keeps its best ``nms_pre``, and all levels drop those under the threshold at once.

    Args:
        head: A ``BaseDenseHead``.
        maps: Of each level classes, boxes and, of some heads, factors of the scores, for one image.
        size: Height and width of the image in pixels, (2,), to which boxes are clipped.
        by: ``'label'`` or ``'level'``: what boxes must share to suppress one another.

    Returns:
        Boxes (N, 4), scores (N,) and labels (N,) or levels, best first.
    """
    cfg = head.test_cfg
    priors = head.prior_generator.grid_priors(
        [level.shape[2:] for level in maps[0]], dtype=maps[0][0].dtype, device=maps[0][0].device
    )
    levels: list[tuple[Tensor, ...]] = []
    for classes, deltas, *factors, places in zip(*maps, priors, strict=True):
        logits = classes[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels)
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[:, :-1]
        count = cfg.get('nms_pre', -1)
        count = min(count, scores.numel()) if count > 0 else scores.numel()
        best, index = scores.flatten().topk(count)
        place, label = index // scores.shape[1], index % scores.shape[1]
        deltas = deltas[0].permute(1, 2, 0).reshape(-1, head.bbox_coder.encode_size)[place]
        # mmdet compares the scores with the threshold before it multiplies them.
        passed = best > cfg.get('score_thr', 0)
        for factor in factors:
            best = best * factor[0].flatten()[place].sigmoid()
        boxes = _clip(head.bbox_coder, head.bbox_coder.decode(places[place], deltas), size)
        if (least := cfg.get('min_bbox_size', -1)) >= 0:
            passed = passed & (boxes[:, 2:] - boxes[:, :2] > least).all(1)
        if by == 'level':
            label = torch.full_like(label, len(levels))
        levels.append((boxes, best, label, passed))
    boxes, scores, labels, passed = (torch.cat(parts) for parts in zip(*levels, strict=True))
    boxes, scores, labels = boxes[passed], scores[passed], labels[passed]
    keep = _nms(boxes, scores, labels, cfg.nms)[: cfg.max_per_img]
    return boxes[keep], scores[keep], labels[keep]


def _pool(extractor: Any, features: tuple[Tensor, ...], rois: Tensor) -> Tensor:
    """Pool regions as ``SingleRoIExtractor`` does, also those levels that have none."""
    levels = extractor.map_roi_levels(rois, len(features))
    pooled = features[0].new_zeros(
        rois.shape[0], extractor.out_channels, *extractor.roi_layers[0].output_size
    )
    for i, (feature, layer) in enumerate(zip(features, extractor.roi_layers, strict=True)):
        index = (levels == i).nonzero()[:, 0]
        pooled = pooled.index_put((index,), layer(feature, rois[index]))
    return pooled


def _look_into(
    roi_head: Any, features: tuple[Tensor, ...], proposals: Tensor, size: Tensor
) -> tuple[Tensor, ...]:
    """Turn proposals (N, 4) into boxes, scores, labels and masks, stage by stage in a cascade.

    As ``StandardRoIHead`` and ``CascadeRoIHead`` do. Their parts take the number of the stage first
    where there are several.
    """
    cfg = roi_head.test_cfg
    stages: list[Any] = [(i,) for i in range(getattr(roi_head, 'num_stages', 0))] or [()]
    # What decodes boxes asks for their number: there are always some, of any score.
    torch._check(proposals.shape[0] > 0, lambda: 'there are no proposals in a random image')
    logits = []
    for stage in stages:
        head = roi_head.bbox_head[stage[0]] if stage else roi_head.bbox_head
        found = roi_head._bbox_forward(*stage, features, _rois(proposals))
        logits.append(found['cls_score'])
        best = found['cls_score'][:, :-1].argmax(1)
        count = 1 if head.reg_class_agnostic else head.num_classes
        deltas = found['bbox_pred'].reshape(-1, head.bbox_coder.encode_size)
        boxes = proposals[:, None].expand(-1, count, -1).reshape(-1, 4)
        boxes = _clip(head.bbox_coder, head.bbox_coder.decode(boxes, deltas), size)
        boxes = boxes.reshape(-1, count, 4).expand(-1, head.num_classes, -1)
        proposals = boxes[torch.arange(boxes.shape[0]), best]  # of the next stage
    scores = torch.stack(logits).mean(0).softmax(-1)[:, :-1]
    region, labels = (scores > cfg.score_thr).nonzero().unbind(1)
    boxes, scores = boxes[region, labels], scores[region, labels]
    keep = _nms(boxes, scores, labels, cfg.nms)[: cfg.max_per_img]
    boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
    if not roi_head.with_mask:
        return boxes, scores, labels
    regions = F.pad(_rois(boxes), (0, 0, 0, 1))  # one more, since norms take no empty batch
    grids = [roi_head._mask_forward(*stage, features, regions) for stage in stages]
    masks = torch.stack([grid['mask_preds'].sigmoid() for grid in grids]).mean(0)
    channel = labels % masks.shape[1]  # 0 of a class-agnostic head
    return boxes, scores, labels, masks[torch.arange(labels.shape[0]), channel]


def _clip(coder: Any, boxes: Tensor, size: Tensor) -> Tensor:
    """Clip boxes as their coder does, which takes no tensor for the size."""
    if not getattr(coder, 'clip_border', True):
        return boxes
    return boxes.clamp(min=0).minimum(size.flip(0).repeat(2).to(boxes.dtype))


def _rois(boxes: Tensor) -> Tensor:
    """Put the image's index before boxes, (N, 4) -> (N, 5)."""
    return F.pad(boxes, (1, 0))


def _nms(boxes: Tensor, scores: Tensor, labels: Tensor, cfg: Any) -> Tensor:
    """Return what non-maximum suppression within each class keeps, best first."""
    from torchvision.ops import nms  # mmdet alone does not need it

    if not cfg.get('class_agnostic', False):
        # Boxes of other classes are moved away; boxes are clipped, so that none is below 0.
        side = torch.cat([boxes, boxes.new_zeros(1, 4)]).max() + 1
        boxes = boxes + (labels * side)[:, None]
    return nms(boxes, scores, cfg.iou_threshold)
