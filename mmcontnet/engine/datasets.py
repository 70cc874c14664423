"""Look for broken files and entries in the data sets of a config."""

from __future__ import annotations

import inspect
import io
import math
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import mmcv
import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio import load
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from .checks import _leaf_datasets

_NUMBER = (int, float)
_ID = (int, float, str)
#: What each list of COCO's JSON must say of an entry for mmdet to load it.
_COCO_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    'images': {'id': _ID, 'file_name': (str,), 'height': _NUMBER, 'width': _NUMBER},
    'categories': {'id': _ID, 'name': (str,)},
    'annotations': {
        'id': _ID,
        'image_id': _ID,
        'category_id': _ID,
        'bbox': (object,),  # see _box_faults
        'area': _NUMBER,
    },
}
#: Files of fewer images per worker are sooner decoded than a worker is started.
_IMAGES_PER_WORKER = 64
#: Boxes may stick out this far, in pixels: COCO's own do, by rounding.
_TOLERANCE = 1


class Fault(NamedTuple):
    """Something wrong with a file or an entry of it.

    Attributes:
        kind: What is wrong, in the plural.
        place: The file and the entry, and what is there.
        warning: Whether training goes on, without it or with it as it is.
    """

    kind: str
    place: str
    warning: bool = False


def find_faults(cfg: Config, parts: Sequence[str], workers: int = 0) -> dict[str, list[Fault]]:
    """Look at every annotation, and decode every image and label map, that the data sets load.

    Args:
        cfg: The whole config.
        parts: Of ``'train'``, ``'val'`` and ``'test'``, what to look at; what was looked at as
            another part is left out.
        workers: Processes that decode; 0 decodes in this one.

    Returns:
        What was found in each data set, by its dotted key in the config.

    Raises:
        UserError: If a process that decodes was killed.
    """
    num_classes = _num_classes(cfg.get('model') or {})
    ignore_index = _decode_head(cfg.get('model') or {}).get('ignore_index', 255)
    found: dict[str, list[Fault]] = {}
    seen: list[Mapping[str, Any]] = []
    for part in parts:
        loader = cfg.get(f'{part}_dataloader') or {}
        for key, config in _leaf_datasets(f'{part}_dataloader.dataset', loader.get('dataset')):
            if config in seen:
                continue
            seen.append(config)
            faults = found[key] = []
            try:
                dataset = _build(config)
                if _is_coco(dataset):
                    faults += _coco_faults(dataset)
                if hasattr(dataset, 'full_init'):  # others are loaded when they are built
                    # pycocotools prints.
                    with redirect_stdout(io.StringIO()):
                        dataset.full_init()
            # It is the class's own code, which raises whatever the broken file leads it to.
            except Exception as error:
                path = os.path.join(config.get('data_root') or '', config.get('ann_file') or '')
                named = any(not fault.warning for fault in faults)
                reason = 'see above' if named else f'{type(error).__name__}: {error}'
                place = f'{path}: {reason}'
                faults.append(Fault('data sets that cannot be loaded, nor their images', place))
                continue
            if len(dataset) == 0:
                faults.append(Fault('data sets without an image to load', key))
            samples = _Samples(dataset, num_classes, ignore_index)
            faults += _all_of(samples, key, workers)
    return found


def report_faults(found: Mapping[str, Sequence[Fault]], listed: int = 20) -> int:
    """Print what was found to the standard error, grouped.

    Args:
        found: What :func:`find_faults` returned.
        listed: How many places of a kind are named. Of warnings, one is.

    Returns:
        The number of faults without the warnings.
    """
    for key, faults in found.items():
        groups = defaultdict(list)
        for fault in faults:
            groups[fault.kind, fault.warning].append(fault.place)
        for (kind, warning), places in groups.items():
            if warning:
                line = f'{key}: warning: {len(places)} {kind}, e.g. {places[0]}'
            else:
                more = len(places) - listed
                named = places[:listed] + ([f'... and {more} more'] if more > 0 else [])
                line = '\n    '.join([f'{key}: {len(places)} {kind}:', *named])
            print(line, file=sys.stderr)
    return sum(not fault.warning for faults in found.values() for fault in faults)


def _build(config: Mapping[str, Any]) -> Any:
    with DATASETS.switch_scope_and_registry(config.get('_scope_')) as registry:
        dataset_class = config['type']
        if isinstance(dataset_class, str):
            dataset_class = registry.get(dataset_class)
    if dataset_class is None:
        raise UserError(f'no data set class {config["type"]!r}')
    # mmengine cannot serialise an empty list.
    options = {'lazy_init': True, 'serialize_data': False}
    taken = inspect.signature(dataset_class).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        options = {name: value for name, value in options.items() if name in taken}
    return DATASETS.build({**config, **options})


def _decode_head(model: Mapping[str, Any]) -> Mapping[str, Any]:
    head = model.get('decode_head') or {}
    return head[-1] if isinstance(head, Sequence) else head  # a cascade's


def _num_classes(model: Mapping[str, Any]) -> int | None:
    """Find how many classes the head that labels are for was built for."""
    box_head = (model.get('roi_head') or {}).get('bbox_head') or {}
    box_head = box_head[-1] if isinstance(box_head, Sequence) else box_head
    for head in (_decode_head(model), model.get('head'), model.get('bbox_head'), box_head):
        if isinstance(head, Mapping) and 'num_classes' in head:
            return head['num_classes']
    return None


def _is_coco(dataset: BaseDataset) -> bool:
    """Tell whether CocoDataset's own code reads the file: its subclasses' formats may differ."""
    methods = (getattr(type(dataset), name, None) for name in ('load_data_list', 'parse_data_info'))
    return all(getattr(m, '__qualname__', '').startswith('CocoDataset.') for m in methods)


def _loads(dataset: BaseDataset, what: str) -> bool:
    """Tell whether the pipeline loads boxes (``with_bbox``), masks or label maps."""
    return any(getattr(step, what, False) for step in dataset.pipeline.transforms)


def _coco_faults(dataset: Any) -> Iterator[Fault]:
    """Check COCO's JSON: what mmdet cannot load, takes for something else, or leaves out."""
    path = dataset.ann_file
    content = load(path, file_format='json', backend_args=dataset.backend_args)
    lists: dict[str, list[dict]] = {}
    broken = set()
    for name, fields in _COCO_FIELDS.items():
        entries = content.get(name) or []
        # Those of test-dev are kept secret.
        trains = not dataset.test_mode and _loads(dataset, 'with_bbox')
        if not entries and (name != 'annotations' or trains):
            yield Fault('annotation files with an empty list', f'{path}: no {name}')
        lists[name] = []
        for i, entry in enumerate(entries):
            place = f'{path}: {name}[{i}]'
            if not isinstance(entry, dict):
                yield Fault('entries that are no objects', f'{place}: {entry!r}')
                continue
            missing = [field for field in fields if field not in entry]
            present = [(field, entry[field]) for field in fields if field in entry]
            wrong = [f'{field} {v!r}' for field, v in present if not _is(v, fields[field])]
            if missing:
                yield Fault('entries that lack a field', f'{place} has no {", ".join(missing)}')
            if wrong:
                yield Fault('entries with a field of a wrong kind', f'{place}: {", ".join(wrong)}')
            if not missing and not wrong:
                lists[name].append(entry)
            else:
                broken |= {(name, v) for f, v in present if f in ('id', 'name') and _is(v, _ID)}
        for identifier, times in Counter(entry['id'] for entry in lists[name]).items():
            if times > 1:
                place = f'{path}: {name}: id {identifier!r}, {times} times'
                yield Fault('ids that are used more than once', place)
    images = {image['id']: image for image in lists['images']}
    categories = {category['id']: category['name'] for category in lists['categories']}
    classes = dataset.metainfo['classes']
    # mmdet would number the others without them.
    for missing_class in set(classes) - set(categories.values()):
        if ('categories', missing_class) in broken:
            continue
        yield Fault('classes that the file has no category for', f'{path}: {missing_class!r}')
    labelled = set()
    for entry in lists['annotations']:
        place = f'{path}: annotation {entry["id"]!r}'
        # Whose image or category is broken is not called wrong for it.
        if {('images', entry['image_id']), ('categories', entry['category_id'])} & broken:
            continue
        if entry['image_id'] not in images:
            yield Fault('annotations of unknown images', f'{place}: image {entry["image_id"]!r}')
            continue
        image, category = images[entry['image_id']], entry['category_id']
        place += f' of {image["file_name"]}'
        if category not in categories:
            yield Fault('annotations of unknown categories', f'{place}: category {category!r}')
            continue
        if categories[category] not in classes:
            kind = 'annotations of categories that metainfo.classes does not name'
            yield Fault(kind, f'{place}: {categories[category]!r}', warning=True)
            continue
        labelled.add(entry['image_id'])
        if entry.get('ignore') or entry.get('iscrowd'):
            yield Fault('annotations marked ignore or iscrowd', place, warning=True)
        yield from _box_faults(place, entry, image)
        if _loads(dataset, 'with_mask'):
            yield from _mask_faults(place, entry.get('segmentation'), image)
    filter_cfg = (not dataset.test_mode and dataset.filter_cfg) or {}
    for identifier, image in images.items():
        if filter_cfg.get('filter_empty_gt') and identifier not in labelled:
            place = f'{path}: image {identifier!r}, {image["file_name"]}'
            yield Fault('images without annotation, left out by filter_cfg', place, warning=True)


def _is(value: Any, kinds: tuple[type, ...] = _NUMBER) -> bool:
    """Tell whether the value is of the kinds, and neither NaN nor infinite."""
    return isinstance(value, kinds) and (not isinstance(value, float) or math.isfinite(value))


def _box_faults(place: str, entry: Mapping[str, Any], image: Mapping[str, Any]) -> Iterator[Fault]:
    box = entry['bbox']
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is, box)):
        yield Fault('boxes that are not four numbers', f'{place}: {box}')
        return
    x, y, w, h = box
    width, height = image['width'], image['height']
    place += f': box x {x}, y {y}, width {w}, height {h}'
    # The two conditions under which CocoDataset leaves a box out.
    if entry['area'] <= 0 or w < 1 or h < 1:
        kind = 'boxes with no area or less than a pixel wide or high'
        yield Fault(kind, f'{place}, area {entry["area"]}', warning=True)
    elif min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        place += f' in an image of {width} x {height}'
        yield Fault('boxes wholly outside the image', place, warning=True)
    elif min(x, y, width - x - w, height - y - h) < -_TOLERANCE:
        place += f' in an image of {width} x {height}'
        yield Fault('boxes that stick out of the image', place, warning=True)


def _mask_faults(place: str, mask: Any, image: Mapping[str, Any]) -> Iterator[Fault]:
    height, width = image['height'], image['width']
    if not mask:
        yield Fault('annotations without the mask that the pipeline loads', place)
    elif isinstance(mask, dict):
        counts, size = mask.get('counts'), mask.get('size')
        if not isinstance(counts, list | str) or size is None:
            yield Fault('RLE masks without counts or size', place, warning=True)
        elif size != [height, width]:
            place += f': size {size} in an image of {height} x {width}'
            yield Fault('masks of another size (height, width) than their image', place)
        else:
            runs = counts if isinstance(counts, list) else _runs(counts)
            if not all(_is(v) and v >= 0 for v in runs) or sum(runs) != height * width:
                yield Fault('RLE masks whose counts do not sum up to their size', place)
    elif isinstance(mask, list) and all(isinstance(polygon, list) for polygon in mask):
        inside = []
        for polygon in mask:
            if len(polygon) < 6 or len(polygon) % 2:
                kind = 'polygons that are not three or more points'
                yield Fault(kind, f'{place}: {len(polygon)} numbers', warning=True)
            elif not all(map(_is, polygon)):
                yield Fault('polygons that are not of finite numbers', place)
                return
            else:
                x, y = polygon[::2], polygon[1::2]
                inside.append(min(x) < width and max(x) > 0 and min(y) < height and max(y) > 0)
        if inside and not any(inside):
            yield Fault('masks wholly outside the image', f'{place}: {height} x {width}')
    else:
        yield Fault('masks that are neither polygons nor RLE', f'{place}: {str(mask)[:60]}')


def _runs(counts: str) -> list[int]:
    """Decode a compressed RLE; [] if it is broken, where pycocotools reads and writes astray."""
    runs: list[int] = []
    value = shift = 0
    for char in counts:
        digit = ord(char) - 48
        if not 0 <= digit < 64:
            return []
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (digit & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return [] if shift else runs


class _Samples(Dataset):
    """The faults of each sample of a data set: its image, its label map and its labels.

    Args:
        dataset: The data set, initialised.
        num_classes: Labels are below it; None takes the number of the data set's classes.
        ignore_index: The label of pixels that do not count.
    """

    def __init__(self, dataset: BaseDataset, num_classes: int | None, ignore_index: int) -> None:
        self.dataset = dataset
        self.num_classes = num_classes or len(dataset.metainfo.get('classes') or ()) or math.inf
        self.ignore_index = ignore_index
        # MultiTaskDataset has only the list.
        self.get_info = getattr(dataset, 'get_data_info', None) or dataset.data_list.__getitem__
        steps = dataset.pipeline.transforms
        self.load_image = next(
            (step for step in steps if isinstance(step, LoadImageFromFile)), LoadImageFromFile()
        )
        self.load_labels = next(
            (step for step in steps if isinstance(step, LoadAnnotations)), LoadAnnotations()
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> list[Fault]:
        return list(self._faults(self.get_info(index)))

    def _faults(self, info: dict[str, Any]) -> Iterator[Fault]:
        path, size = info.get('img_path'), None
        if isinstance(path, str):
            try:
                loaded = self.load_image({'img_path': path})
            # Decoders raise errors of their own.
            except Exception as error:
                yield _unreadable('images', path, error)
            else:
                # A dropped sample is replaced by another in training, and ends a test.
                if loaded is None:
                    kind = 'images that ignore_empty drops'
                    yield Fault(kind, path, warning=not self.dataset.test_mode)
                    return
                size = loaded['img'].shape[:2]
                stated = info.get('height'), info.get('width')
                if None not in stated and stated != size:
                    place = f'{path}: {size}, the annotations say {stated}'
                    yield Fault('images of another size (height, width) than annotated', place)
        map_path = info.get('seg_map_path')
        if map_path and self.load_labels.with_seg:
            yield from self._map_faults(map_path, size, info)
        labels = [i['bbox_label'] for i in info.get('instances', []) if 'bbox_label' in i]
        label = info.get('gt_label', [])
        if not isinstance(label, Mapping):  # MultiTaskDataset's, of several heads
            labels += np.atleast_1d(label).tolist()
        for label in set(labels):
            if not 0 <= label < self.num_classes:
                place = f'{path}: {label:g}, of {self.num_classes} classes'
                yield Fault('labels out of range', place)

    def _map_faults(
        self, path: str, size: tuple[int, ...] | None, info: Mapping[str, Any]
    ) -> Iterator[Fault]:
        step = self.load_labels
        try:
            # The numbers as the file has them: mmseg's step would cut them to 8 bits.
            pixels = mmcv.imread(
                path, 'unchanged', backend=step.imdecode_backend, backend_args=step.backend_args
            ).squeeze()
        except Exception as error:
            yield _unreadable('label maps', path, error)
            return
        if size and pixels.shape[:2] != size:
            place = f'{path}: {pixels.shape[:2]}, its image {size}'
            yield Fault('label maps of another size (height, width) than their image', place)
        if 'label_map' not in info:  # mmdet's, of forms that vary
            return
        if pixels.ndim != 2:
            yield Fault('label maps of several channels', f'{path}: {pixels.shape[2]}')
            return
        allowed = {self.ignore_index}
        # As mmseg's step does it: 0 and 255 are nothing, and the others count from 1.
        labels = {value: value for value in np.unique(pixels).tolist()}
        if step.reduce_zero_label or info['reduce_zero_label']:
            labels = {value: 255 if value in (0, 255) else value - 1 for value in labels}
        # Of names that a config chooses, by the numbers of the whole list.
        known = info['label_map'] or range(int(min(self.num_classes, 256)))
        if wrong := [v for v, label in labels.items() if label not in allowed.union(known)]:
            numbers = ', '.join(map(str, wrong[:5])) + (', ...' if len(wrong) > 5 else '')
            place = f'{path}: {numbers}, of {self.num_classes} classes'
            yield Fault('label maps with labels out of range', place)


def _unreadable(what: str, path: str, error: Exception) -> Fault:
    if isinstance(error, FileNotFoundError):
        return Fault(f'missing {what}', path)
    # Of others than the system's the text is about the decoder.
    reason = f': {error.strerror}' if isinstance(error, OSError) and error.strerror else ''
    return Fault(f'{what} that cannot be decoded', f'{path}{reason}')


def _all_of(samples: _Samples, key: str, workers: int) -> list[Fault]:
    """Go through the samples, and say every few seconds how far."""
    workers = min(workers, len(samples) // _IMAGES_PER_WORKER)
    found = []
    last = time.monotonic()
    try:
        # No batches, and no conversion to tensors.
        loader = DataLoader(samples, batch_size=None, num_workers=workers, collate_fn=list)
        for i, faults in enumerate(loader, 1):
            found += faults
            if time.monotonic() - last > 5:
                last = time.monotonic()
                print(f'{key}: {i}/{len(samples)} images', file=sys.stderr, flush=True)
    except RuntimeError as error:  # what a worker's death is to torch
        raise UserError(f'{key}: the check was stopped: {error}') from error
    return found
