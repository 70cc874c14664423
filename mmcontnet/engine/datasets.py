"""Find broken files and entries in the data sets of a config.

COCO's JSON is checked first, before pycocotools, which crashes on some mistakes, gets it. Then all
samples of any data set are loaded as its pipeline does.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from ..images import check_image
from .checks import leaf_datasets

_NUMBER = (int, float)
_ID = (int, float, str)
#: What mmdet reads of each entry of COCO's JSON.
_COCO_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    'images': dict(id=_ID, file_name=(str,), height=_NUMBER, width=_NUMBER),
    'categories': dict(id=_ID, name=(str,)),
    'annotations': dict(id=_ID, image_id=_ID, category_id=_ID, bbox=(list,), area=_NUMBER),
}
#: Files of fewer images per worker are sooner decoded than a worker is started.
_IMAGES_PER_WORKER = 64


class Issue(NamedTuple):
    """A mistake in a file or in an entry of it.

    Attributes:
        category: What is wrong, in the plural.
        location: The file and the entry.
        message: What is there.
        warning: Whether training leaves it out, or takes it as it is.
    """

    category: str
    location: str
    message: str = ''
    warning: bool = False

    def __str__(self) -> str:
        return f'{self.location}: {self.message}' if self.message else self.location


def validate_datasets(
    cfg: Config, parts: Sequence[str], workers: int = 0
) -> dict[str, list[Issue]]:
    """Check every annotation, and load every image and label map.

    Args:
        cfg: The whole config.
        parts: Of ``'train'``, ``'val'`` and ``'test'``, what to check; a data set that was checked
            as another part is left out.
        workers: Processes that load; 0 loads in this one.

    Returns:
        The issues of each data set, by its dotted key in the config.

    Raises:
        UserError: If a process that loads was killed.
    """
    issues: dict[str, list[Issue]] = {}
    seen: list[Mapping[str, Any]] = []
    for part in parts:
        loader = cfg.get(f'{part}_dataloader') or {}
        for key, config in leaf_datasets(f'{part}_dataloader.dataset', loader.get('dataset')):
            if config in seen:
                continue
            seen.append(config)
            found = issues.setdefault(key, [])
            try:
                dataset = _build(config)
                if is_coco := _is_coco(dataset):
                    found += _coco_issues(dataset)
                if hasattr(dataset, 'full_init'):  # others load when they are built
                    with redirect_stdout(io.StringIO()):  # pycocotools prints
                        dataset.full_init()
            except Exception as error:  # whatever the broken file leads the data set's class to
                path = os.path.join(config.get('data_root') or '', config.get('ann_file') or '')
                reason = 'see above' if count_errors(found) else f'{type(error).__name__}: {error}'
                found.append(Issue('data sets that cannot be loaded', path, reason))
                continue
            if len(dataset) == 0:
                found.append(Issue('data sets without an image to load', key))
            safe = is_coco and not count_errors(found)
            samples = _Samples(dataset, cfg.get('model') or {}, load_masks=safe)
            found += _load_all(samples, key, workers)
    return issues


def count_errors(found: Sequence[Issue]) -> int:
    """The number of issues that are no warnings."""
    return sum(not issue.warning for issue in found)


def report_issues(issues: Mapping[str, Sequence[Issue]]) -> int:
    """Print issues to the standard error by category: twenty of each, or one if it is a warning.

    Args:
        issues: What :func:`validate_datasets` returned.

    Returns:
        The number of issues without the warnings.
    """
    for key, found in issues.items():
        groups = defaultdict(list)
        for issue in found:
            groups[issue.category, issue.warning].append(str(issue))
        for (category, warning), lines in groups.items():
            if warning:
                text = f'{key}: warning: {len(lines)} {category}, e.g. {lines[0]}'
            else:
                more = [f'... and {len(lines) - 20} more'] * (len(lines) > 20)
                text = '\n    '.join([f'{key}: {len(lines)} {category}:', *lines[:20], *more])
            print(text, file=sys.stderr)
    return sum(map(count_errors, issues.values()))


def _build(config: Mapping[str, Any]) -> Any:
    try:
        # mmengine cannot serialise an empty list.
        return DATASETS.build({**config, 'lazy_init': True, 'serialize_data': False})
    except TypeError:  # some classes take neither
        return DATASETS.build(dict(config))


def _is_coco(dataset: Any) -> bool:
    """Tell whether CocoDataset's own code reads the file: its subclasses' formats may differ."""
    methods = (getattr(type(dataset), name, None) for name in ('load_data_list', 'parse_data_info'))
    return all(getattr(m, '__qualname__', '').startswith('CocoDataset.') for m in methods)


def _loads(dataset: Any, what: str) -> bool:
    """Tell whether the pipeline loads boxes (``with_bbox``), masks or label maps."""
    return any(getattr(step, what, False) for step in dataset.pipeline.transforms)


def _is(value: Any, kinds: tuple[type, ...] = _NUMBER) -> bool:
    """Tell whether the value is of the kinds, and neither NaN nor infinite."""
    return isinstance(value, kinds) and (not isinstance(value, float) or math.isfinite(value))


def _coco_issues(dataset: Any) -> Iterator[Issue]:
    """Check COCO's JSON: what mmdet cannot load, misunderstands or leaves out."""
    path, training, classes = dataset.ann_file, not dataset.test_mode, dataset.metainfo['classes']
    content = load(path, file_format='json', backend_args=dataset.backend_args)
    tables: dict[str, dict[Any, Any]] = {}  # entries by id; None are those that are wrong
    for name, fields in _COCO_FIELDS.items():
        entries, tables[name] = content.get(name) or [], {}
        # The annotations of test-dev are kept secret.
        if not entries and (name != 'annotations' or (training and _loads(dataset, 'with_bbox'))):
            yield Issue('annotation files with an empty list', path, f'no {name}')
        for i, entry in enumerate(entries):
            values = entry if isinstance(entry, dict) else {}
            wrong = [field for field, kinds in fields.items() if not _is(values.get(field), kinds)]
            if wrong:
                texts = (f'{f} {values[f]!r}' if f in values else f'no {f}' for f in wrong)
                message = ', '.join(texts)
                yield Issue('entries with missing or wrong fields', f'{path}: {name}[{i}]', message)
            if 'id' not in wrong:
                if values['id'] in tables[name]:
                    message = f'id {values["id"]!r}'
                    yield Issue('ids that are used twice', f'{path}: {name}[{i}]', message)
                tables[name][values['id']] = None if wrong else entry
    entries = [entry for entry in content.get('categories') or [] if isinstance(entry, dict)]
    names = [entry.get('name') for entry in entries]
    for name in classes:
        if name not in names:  # mmdet would number the others without it
            yield Issue('classes that the file has no category for', path, repr(name))
    labelled = set()
    rules = [_box, _mask] if _loads(dataset, 'with_mask') else [_box]
    for entry in filter(None, tables['annotations'].values()):
        place = f'{path}: annotation {entry["id"]!r}'
        image, category = entry['image_id'], entry['category_id']
        if image not in tables['images']:
            yield Issue('annotations of unknown images', place, f'image {image!r}')
        elif category not in tables['categories']:
            yield Issue('annotations of unknown categories', place, f'category {category!r}')
        elif tables['images'][image] and tables['categories'][category]:
            image, category = tables['images'][image], tables['categories'][category]
            place += f' of {image["file_name"]}'
            if category['name'] not in classes:
                kind = 'annotations of categories that metainfo.classes does not name'
                yield Issue(kind, place, repr(category['name']), warning=True)
                continue
            labelled.add(image['id'])
            for rule in rules:
                yield from rule(place, entry, image['height'], image['width'])
    if training and (dataset.filter_cfg or {}).get('filter_empty_gt'):
        for image in filter(None, tables['images'].values()):
            if image['id'] not in labelled:
                place = f'{path}: image {image["id"]!r}, {image["file_name"]}'
                yield Issue('images without annotation, left out by filter_cfg', place, '', True)


def _box(place: str, entry: Mapping[str, Any], height: float, width: float) -> Iterator[Issue]:
    box, size = entry['bbox'], f'in an image of {width} x {height}'
    if entry.get('ignore') or entry.get('iscrowd'):
        yield Issue('annotations marked ignore or iscrowd', place, warning=True)
    if len(box) != 4 or not all(map(_is, box)):
        yield Issue('boxes that are not four numbers', place, str(box))
        return
    x, y, w, h = box
    # The two conditions under which CocoDataset leaves a box out.
    if entry['area'] <= 0 or w < 1 or h < 1:
        category = 'boxes with no area or less than a pixel wide or high'
        yield Issue(category, place, f'box {box}, area {entry["area"]}', warning=True)
    elif min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        yield Issue('boxes wholly outside the image', place, f'box {box} {size}', warning=True)
    elif min(x, y, width - x - w, height - y - h) < -1:  # COCO's own do by less, by rounding
        yield Issue('boxes that stick out of the image', place, f'box {box} {size}', warning=True)


def _mask(place: str, entry: Mapping[str, Any], height: float, width: float) -> Iterator[Issue]:
    """Find what crashes pycocotools, or makes it return garbage or take all memory; and no mask."""
    mask, text = entry.get('segmentation'), str(entry.get('segmentation'))[:60]
    if not mask:
        yield Issue('annotations without the mask that the pipeline loads', place)
    elif isinstance(mask, dict) and isinstance(mask.get('counts'), list | str):
        counts, size = mask['counts'], mask.get('size')
        runs = _runs(counts) if isinstance(counts, str) else counts
        if size != [height, width]:
            category = 'masks of another size (height, width) than their image'
            yield Issue(category, place, f'size {size} in an image of {height} x {width}')
        elif not all(_is(run) and run >= 0 for run in runs) or sum(runs) != height * width:
            yield Issue('RLE masks whose counts do not sum up to their size', place, text)
    elif isinstance(mask, list) and all(isinstance(p, list) and all(map(_is, p)) for p in mask):
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask):
            yield Issue('polygons that are not three or more points', place, text, warning=True)
    else:
        yield Issue('masks that are neither polygons of finite numbers nor RLE', place, text)


def _runs(counts: str) -> list[int]:
    """Decode a compressed RLE, of whose counts pycocotools does not check the sum."""
    if not re.fullmatch('([P-o]*[0-O])*', counts):  # five bits a character; a sixth: more follow
        return []
    runs: list[int] = []
    for number in re.findall('[P-o]*[0-O]', counts):
        value = sum((ord(char) - 48 & 31) << 5 * i for i, char in enumerate(number))
        value -= (ord(number[-1]) - 48 & 16) << 5 * len(number) - 4  # the sign
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def _num_classes(model: Any) -> Iterator[int]:
    """The setting of this name in a model's heads, at any depth."""
    if isinstance(model, Mapping):
        if 'num_classes' in model:
            yield model['num_classes']
        model = [v for k, v in model.items() if k not in ('data_preprocessor', 'rpn_head')]
    if isinstance(model, list | tuple):
        for value in model:
            yield from _num_classes(value)


class _Samples(Dataset):
    """The issues of each sample of a data set.

    Args:
        dataset: The data set, initialised.
        model: Of the config. Labels are below its number of classes, or else the data set's.
        load_masks: Whether pycocotools may get the masks.
    """

    def __init__(self, dataset: Any, model: Mapping[str, Any], load_masks: bool) -> None:
        self.dataset = dataset
        heads = {key: value for key, value in model.items() if key not in ('backbone', 'neck')}
        classes = len(dataset.metainfo.get('classes') or ()) or math.inf
        self.num_classes = next(_num_classes(heads), classes)
        head = model.get('decode_head') or {}
        head = head[-1] if isinstance(head, Sequence) else head  # a cascade's
        self.ignore_index = head.get('ignore_index', 255)
        # Not the steps that change what was loaded.
        steps = [s for s in dataset.pipeline.transforms if type(s).__name__.startswith('Load')]
        self.steps = [s for s in steps if load_masks or not getattr(s, 'with_mask', False)]
        self.load_map = next((s for s in steps if getattr(s, 'with_seg', False)), None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> list[Issue]:
        info = dict(self.dataset.get_data_info(index))
        found = list(self._labels(info))
        for step in self.steps or [LoadImageFromFile()]:
            path, what = str(info.get('img_path')), 'images'
            if step is self.load_map and info.get('seg_map_path'):
                path, what = info['seg_map_path'], 'label maps'
            try:
                check_image(path)
                loaded = step(info)
            except FileNotFoundError:
                return [*found, Issue(f'missing {what}', path)]
            except Exception as error:  # decoders raise errors of their own
                reason = ' '.join(f'{type(error).__name__}: {error}'.split())
                return [*found, Issue(f'{what} that cannot be loaded', path, reason)]
            if loaded is None:  # replaced by another in training, while a test ends
                category, warning = 'images that ignore_empty drops', not self.dataset.test_mode
                return [*found, Issue(category, path, warning=warning)]
            info = loaded
        return [*found, *self._sizes(info), *self._map_values(info)]

    def _labels(self, info: Mapping[str, Any]) -> Iterator[Issue]:
        labels = [i['bbox_label'] for i in info.get('instances', []) if 'bbox_label' in i]
        for label in {*labels, *np.atleast_1d(info.get('gt_label', [])).tolist()}:
            if not 0 <= label < self.num_classes:
                message = f'{label:g}, of {self.num_classes} classes'
                yield Issue('labels out of range', str(info.get('img_path')), message)

    def _sizes(self, info: Mapping[str, Any]) -> Iterator[Issue]:
        size, stated = info.get('img_shape'), (info.get('height'), info.get('width'))
        if size and None not in stated and size != stated:
            category = 'images of another size (height, width) than annotated'
            turned = ': turned by 90 degrees, as by its EXIF data' * (size[::-1] == stated)
            yield Issue(category, str(info['img_path']), f'{size}, annotated {stated}{turned}')
        pixels = info.get('gt_seg_map')
        if size and pixels is not None and pixels.shape[:2] != size:
            category = 'label maps of another size (height, width) than their image'
            yield Issue(category, info['seg_map_path'], f'{pixels.shape[:2]}, its image {size}')

    def _map_values(self, info: Mapping[str, Any]) -> Iterator[Issue]:
        path, step = info.get('seg_map_path'), self.load_map
        if not path or step is None or 'label_map' not in info:  # mmdet's are of forms that vary
            return
        # The numbers as the file has them: mmseg cuts them to 8 bits.
        options = dict(backend=step.imdecode_backend, backend_args=step.backend_args)
        pixels = mmcv.imread(path, 'unchanged', **options).squeeze()
        if pixels.ndim != 2:
            yield Issue('label maps of several channels', path, str(pixels.shape[2]))
            return
        # As mmseg does it: 0 and 255 are nothing, and the others count from 1.
        labels = {value: value for value in np.unique(pixels).tolist()}
        if info['reduce_zero_label']:
            labels = {value: 255 if value in (0, 255) else value - 1 for value in labels}
        # Of names that a config chooses, by the numbers of the whole list.
        known = {*(info['label_map'] or range(int(min(self.num_classes, 256)))), self.ignore_index}
        if wrong := [str(value) for value, label in labels.items() if label not in known]:
            numbers = ', '.join(wrong[:5]) + ', ...' * (len(wrong) > 5)
            message = f'{numbers}, of {self.num_classes} classes'
            yield Issue('label maps with labels out of range', path, message)


def _load_all(samples: _Samples, key: str, workers: int) -> list[Issue]:
    """Go through the samples, and say every few seconds how far."""
    workers = min(workers, len(samples) // _IMAGES_PER_WORKER)
    found, last = [], time.monotonic()
    try:
        # No batches, and no conversion to tensors.
        loader = DataLoader(samples, batch_size=None, num_workers=workers, collate_fn=list)
        for i, issues in enumerate(loader, 1):
            found += issues
            if time.monotonic() - last > 5:
                last = time.monotonic()
                print(f'{key}: {i}/{len(samples)} images', file=sys.stderr, flush=True)
    except RuntimeError as error:  # what a worker's death is to torch
        raise UserError(f'{key}: the check was stopped: {error}') from error
    return found
