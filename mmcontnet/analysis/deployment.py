"""Whole networks as functions of pixels, in operations that ONNX has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor, nn

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
    - Detectors take one image, and return ``boxes``, (N, 4) in pixels of the image, ``scores``,
      (N,), and ``labels``, (N,), best first.

    Args:
        model: Of mmpretrain, mmseg or mmdet.
        scope: The package.

    Raises:
        UserError: If this kind of network cannot be written whole.
    """

    def __init__(self, model: BaseModel, scope: str) -> None:
        super().__init__()
        self.model: Any = model
        compute: dict[str, Callable[..., Any]] = dict(
            mmpretrain=self._classify, mmseg=self._segment, mmdet=self._detect
        )
        if scope not in compute:
            raise UserError(f'default_scope must be one of {", ".join(compute)}, not {scope}')
        self.compute = compute[scope]
        self.names = OUTPUTS[scope]
        if scope == 'mmdet':
            _check_detector(model)

    def forward(self, image: Tensor) -> Any:
        """Compute what the class says."""
        data = dict(inputs=image, data_samples=None)
        return self.compute(self.model.data_preprocessor(data, False)['inputs'], image.shape[2:])

    def _classify(self, image: Tensor, shape: tuple[int, int]) -> tuple[Tensor]:
        return (torch.stack([sample.pred_score for sample in self.model.predict(image)]),)

    def _segment(self, image: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        height, width = shape
        infer = _slide if self.model.test_cfg.mode == 'slide' else _infer_whole
        logits = infer(self.model, image)[..., :height, :width]
        if logits.shape[1] > 1:
            return logits.argmax(1, keepdim=True), logits
        return (logits.sigmoid() > self.model.decode_head.threshold).long(), logits

    def _detect(self, image: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        features = self.model.extract_feat(image)
        return _decode(self.model.bbox_head, self.model.bbox_head(features), shape)


def describe_network(model: Any, cfg: Config) -> dict[str, Any]:
    """Tell networks apart: the package, the types of model and backbone, and the classes' number.

    Args:
        model: The network, which may be on the meta device.
        cfg: Its config.
    """
    heads = (getattr(model, name, None) for name in ('bbox_head', 'decode_head', 'head'))
    return dict(
        scope=cfg.get('default_scope'),
        model=type(model).__name__,
        backbone=type(getattr(model, 'backbone', None)).__name__,
        classes=next((getattr(head, 'num_classes', None) for head in heads if head), None),
    )


def _metas(image: Tensor) -> list[dict[str, Any]]:
    shape = tuple(image.shape[2:])
    return [dict(img_shape=shape, pad_shape=shape, ori_shape=shape)] * len(image)


def _infer_whole(model: Any, image: Tensor) -> Tensor:
    return model.whole_inference(image, _metas(image))


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
            logits = model.encode_decode(window, _metas(window))
            total = total + F.pad(logits, (left, right, top, bottom))
            count[top : top + height, left : left + width] += 1
    return total / count


def _check_detector(model: Any) -> None:
    """Check that a detector's boxes are found as :func:`_decode` finds them."""
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.detectors import SingleStageDetector

    head = getattr(model, 'bbox_head', None)
    own = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')
    if (
        not isinstance(model, SingleStageDetector)
        or not isinstance(head, BaseDenseHead)
        or any(getattr(type(head), name) is not getattr(BaseDenseHead, name) for name in own)
    ):
        name = type(model if head is None else head).__name__
        raise UserError(f'{name} cannot be exported whole; --raw exports backbone and neck')
    if (kind := model.test_cfg.nms.get('type', 'nms')) != 'nms':
        raise UserError(f'model.test_cfg.nms.type must be nms to be exported, not {kind}')


def _decode(
    head: Any, maps: tuple[list[Tensor], ...], shape: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the maps of a dense head into boxes, as its ``predict_by_feat`` does.

    There, how many candidates a level has depends on the scores, which torch.export cannot follow.
    Here a level keeps its best ``nms_pre``, and all levels drop those under the threshold at once.

    Args:
        head: A ``BaseDenseHead``.
        maps: Of each level classes, boxes and, of some heads, factors of the scores, for one image.
        shape: Height and width of the image in pixels, to which boxes are clipped.

    Returns:
        Boxes (N, 4), scores (N,) and labels (N,), best first.
    """
    cfg = head.test_cfg
    priors = head.prior_generator.grid_priors(
        [level.shape[2:] for level in maps[0]], dtype=maps[0][0].dtype, device=maps[0][0].device
    )
    levels = []
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
        boxes = head.bbox_coder.decode(places[place], deltas, max_shape=tuple(shape))
        if (least := cfg.get('min_bbox_size', -1)) >= 0:
            passed = passed & (boxes[:, 2:] - boxes[:, :2] > least).all(1)
        levels.append((boxes, best, label, passed))
    boxes, scores, labels, passed = (torch.cat(parts) for parts in zip(*levels, strict=True))
    boxes, scores, labels = boxes[passed], scores[passed], labels[passed]
    keep = _nms(boxes, scores, labels, cfg.nms)[: cfg.max_per_img]
    return boxes[keep], scores[keep], labels[keep]


def _nms(boxes: Tensor, scores: Tensor, labels: Tensor, cfg: Any) -> Tensor:
    """Return what non-maximum suppression within each class keeps, best first."""
    from torchvision.ops import nms  # mmdet alone does not need it

    if not cfg.get('class_agnostic', False):
        # Boxes of other classes are moved away; boxes are clipped, so that none is below 0.
        side = torch.cat([boxes, boxes.new_zeros(1, 4)]).max() + 1
        boxes = boxes + (labels * side)[:, None]
    return nms(boxes, scores, cfg.iou_threshold)
