"""Find what a model, its checkpoint, the pipelines and the metrics need and a data set lacks."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from mmengine.config import Config
from torch import nn

from ..checkpoint import read_dataset_meta
from .coco import CocoFile, class_issues, loads, read_coco, steps_of
from .issues import Issue, shorten

#: Whose steps of pipelines are known.
_PACKAGES = ('mmcv', 'mmengine', 'mmdet', 'mmseg', 'mmpretrain')
_PACKS = dict(mmdet='PackDetInputs', mmseg='PackSegInputs', mmpretrain='PackInputs')
#: Those of mmseg, which looks at their names after the first validation.
_IOU_METRICS = ('mIoU', 'mDice', 'mFscore')


@dataclass(eq=False)
class Data:
    """A data set of a config, and what is known of it.

    Attributes:
        key: Where it is in the config.
        config: Its own.
        dataset: As it is built; a quick look leaves COCO's without their samples. None before, and
            where it cannot be.
        classes: Their names, in the order of their numbers; none if they are not known.
        num_classes: How many labels there may be; infinity if that is not known.
        infos: What it knows of each sample; None where a quick look does not ask.
        file: Its annotation file, if that is of COCO's format.
        used: Which classes occur, as far as that is known.
        issues: What is wrong with it.
    """

    key: str
    config: Mapping[str, Any]
    dataset: Any = None
    classes: list[str] = field(default_factory=list)
    num_classes: float = math.inf
    infos: Sequence[Mapping[str, Any]] | None = None
    file: CocoFile | None = None
    used: set[str] | None = None
    issues: list[Issue] = field(default_factory=list)

    @cached_property
    def images(self) -> set[str]:
        """The paths of its images, as far as they are known."""
        return {str(info['img_path']) for info in self.infos or () if 'img_path' in info}

    def add(self, found: Iterable[Issue]) -> None:
        """Add issues that may have been found before, for another part of the config."""
        self.issues += [issue for issue in found if issue not in self.issues]


def is_known(step: Any) -> bool:
    """Tell whether the needs of a pipeline's step are known."""
    return type(step).__module__.partition('.')[0] in _PACKAGES


def has_maps(dataset: Any) -> bool:
    """Tell whether it is a segmenter's, whose samples are files in a folder."""
    return 'seg_map_path' in (getattr(dataset, 'data_prefix', None) or {})


def head_classes(model: nn.Module | None) -> dict[str, int]:
    """Return the numbers of classes that the heads of a model, their losses and so on have."""
    found: dict[str, int] = {}
    if model is None or hasattr(model, 'language_model'):  # whose classes are words
        return found
    for name, module in model.named_modules():
        # RPN has one class, STDC's own head edges; semantic heads' classes are not the data set's.
        inside = {'backbone', 'neck', 'rpn_head', 'semantic_head'}.isdisjoint(name.split('.'))
        inside &= not type(module).__name__.endswith(('RPNHead', 'STDCHead'))
        number = getattr(module, 'num_classes', None)
        if inside and isinstance(number, int) and not getattr(module, 'class_agnostic', False):
            found[f'model.{name}.num_classes'] = number
    return found


def head_issues(model: nn.Module | None, data: Data) -> Iterator[Issue]:
    """Compare the classes of heads and their losses with those of the data set."""
    number, has = len(data.classes), f'metainfo.classes has {len(data.classes)}: '
    has += shorten(data.classes)
    for name, module in model.named_modules() if model else ():
        weights = getattr(module, 'class_weight', None)
        if isinstance(weights, list | tuple) and number and 'rpn_head' not in name:
            # A sigmoid may have a single one; what finds objects has a background too.
            background = not name.endswith(('loss_decode', 'loss_module'))
            if len(weights) not in (1, number, number + background):
                message = f'model.{name}.class_weight has {len(weights)}; {has}'
                yield Issue('losses that weigh another number of classes', '', message)
        losses = getattr(module, 'loss_decode', None)
        several = losses if isinstance(losses, nn.ModuleList) else [losses]
        softmax = not any(getattr(loss, 'use_sigmoid', False) for loss in several)
        if losses is not None and softmax and getattr(module, 'out_channels', None) == 1:
            message = f'the loss of model.{name} is always 0; take two classes, background and '
            message = f'{message}yours, or num_classes=2, out_channels=1 and use_sigmoid=True'
            yield Issue('heads with a softmax of one class', '', message)
    window = getattr(model, 'test_cfg', None) or {}
    lacking = [name for name in ('crop_size', 'stride') if name not in window]
    if has_maps(data.dataset) and window.get('mode') == 'slide' and lacking:
        message = f'with mode="slide" it needs {" and ".join(lacking)}'
        yield Issue('windows of no size', 'model.test_cfg', message)
    heads = head_classes(model).items() if number else ()
    if wrong := [f'{name} is {classes}' for name, classes in heads if classes != number]:
        yield Issue('heads for another number of classes', '', f'{", ".join(wrong)}; {has}')


def checkpoint_issues(
    checkpoint: str | None, dataset_meta: Mapping[str, Any] | None, data: Data
) -> Iterator[Issue]:
    """Compare the classes of a data set with those that a training has noted."""
    if checkpoint is None or '://' in checkpoint or not data.classes:
        return
    names = (read_dataset_meta(checkpoint) if dataset_meta is None else dataset_meta).get('classes')
    noted = list(map(str, names)) if isinstance(names, list | tuple) else []
    if noted and noted != data.classes:
        message = f'{shorten(noted)}; metainfo.classes is {shorten(data.classes)}'
        if sorted(noted) != sorted(data.classes):
            yield Issue('checkpoints of other classes', checkpoint, message, warning=True)
        else:  # the head may still be trained anew
            kind, training = 'checkpoints of classes in another order', not data.dataset.test_mode
            yield Issue(kind, checkpoint, message, training)


def pipeline_issues(model: nn.Module | None, data: Data, part: str) -> Iterator[Issue]:
    """Find what a pipeline of OpenMMLab's own steps lacks for the part in which it is used."""
    dataset, steps = data.dataset, steps_of(data.dataset)
    if not all(map(is_known, steps)):
        return
    detector = data.file and part == 'train'
    needs = dict(
        with_bbox=detector and (hasattr(model, 'bbox_head') or hasattr(model, 'roi_head')),
        with_mask=detector and getattr(getattr(model, 'roi_head', None), 'with_mask', False),
        with_seg=has_maps(dataset) and part != 'test' and hasattr(model, 'decode_head'),
    )
    if missing := [name for name, need in needs.items() if need and not loads(dataset, name)]:
        message = f"write dict(type='LoadAnnotations', {'=True, '.join(missing)}=True)"
        yield Issue('pipelines that load too little', '', message)
    packed = [step.meta_keys for step in steps if hasattr(step, 'meta_keys')]
    kind = 'pipelines that pack too little'
    # Test-time augmentation and its like hold steps of their own, wrappers' pipelines come later.
    last = not any({'transforms', 'subroutines'} & vars(step).keys() for step in steps)
    if last and not packed and steps and '.dataset.dataset' not in data.key:
        pack = _PACKS.get(type(dataset).__module__.partition('.')[0], 'Pack...')
        message = f"the last step is {type(steps[-1]).__name__}; add dict(type='{pack}')"
        yield Issue(kind, '', message)
    elif packed and data.file and part != 'train' and 'img_id' not in packed[-1]:
        yield Issue(kind, '', "add 'img_id' to the meta_keys, by which results find their image")
    size: Any = getattr(getattr(model, 'data_preprocessor', None), 'size', None)
    crop: Any = next((step.crop_size for step in steps if hasattr(step, 'crop_size')), size)
    if part == 'train' and size and tuple(crop) != tuple(size):
        message = f'{tuple(crop)}, while data_preprocessor.size is {tuple(size)}: write the same'
        yield Issue('crops of another size than they are padded to', '', message, True)


def metric_issues(cfg: Config, model: nn.Module | None, data: Data, part: str) -> Iterator[Issue]:
    """Compare metrics with the model, and the file that one reads with the data set's."""
    file, key, evaluators = data.file, f'{part}_evaluator', cfg.get(f'{part}_evaluator')
    metrics = evaluators if isinstance(evaluators, list | tuple) else [evaluators]
    metrics = [m for m in metrics if isinstance(m, Mapping)]
    if file and metrics and not file.annotations and not all(m.get('format_only') for m in metrics):
        message = f'write format_only=True to {key}, or take a file with annotations'
        yield Issue('annotation files with nothing to evaluate', file.path, message)
    detector = hasattr(model, 'bbox_head') or hasattr(model, 'roi_head')
    names = [f'{name} {type(m).__name__}' for name, m in model.named_modules()] if model else []
    masks = not detector or any('mask' in name.lower() or 'Ins' in name for name in names)
    for metric in metrics:
        if file and not masks and 'segm' in (metric.get('metric') or ()):
            message = "'segm' needs masks, which the model does not predict: write 'bbox'"
            yield Issue('metrics of what is not predicted', f'{key}.metric', message)
        if odd := [m for m in metric.get('iou_metrics') or () if m not in _IOU_METRICS]:
            message = f'{shorten(odd)}; choose from {", ".join(_IOU_METRICS)}'
            yield Issue('metrics that do not exist', f'{key}.iou_metrics', message)
        if data.classes and (most := max(np.ravel(metric.get('topk') or 1))) > len(data.classes):
            message = f'{most} of {len(data.classes)} classes: write topk=(1,)'
            yield Issue('metrics of what is not predicted', f'{key}.topk', message)
        path = metric.get('ann_file')
        if not file or not isinstance(path, str) or not os.path.isfile(path):
            continue
        if os.path.realpath(path) != os.path.realpath(file.path):
            other = read_coco(path)
            yield from class_issues(data.dataset, other)
            if missing := file.images.keys() - other.images.keys():
                message = f'{len(missing)} of {len(file.images)} in {file.path} are not in {path}'
                yield Issue('images that are not evaluated', f'{key}.ann_file', message)


def picture_issues(cfg: Config, data: Data, part: str) -> Iterator[Issue]:
    """Find what mmdet's hook cannot draw, or draws over."""
    hook = (cfg.get('default_hooks') or {}).get('visualization') or {}
    drawn = part == 'test' and hook.get('draw') and hook.get('test_out_dir')
    palette = data.dataset.metainfo.get('palette')
    if isinstance(palette, list | tuple) and len(palette) < len(data.classes):
        message = f'{len(palette)} for {len(data.classes)} classes; write palette=None'
        # Nobody need care for the colours of a package's class until pictures are drawn.
        inherited = palette == getattr(type(data.dataset), 'METAINFO', {}).get('palette')
        unused = inherited and not drawn
        yield Issue('palettes of too few colours', 'metainfo.palette', message, unused)
    names = Counter(map(os.path.basename, data.images if drawn else ()))
    if several := [name for name, count in names.items() if count > 1]:
        message = f'{len(data.images) - len(names)} of {len(data.images)} pictures will be lost, '
        message = f'{message}e.g. of {min(several)}: only the last of a name stays'
        yield Issue('images of the same name in several folders', '', message, True)
