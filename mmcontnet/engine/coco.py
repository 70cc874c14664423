"""Check COCO's JSON: what mmdet cannot load, misunderstands, skips or uses unchanged."""

from __future__ import annotations

import json
import math
import mmap
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
from mmengine.fileio import get_local_path
from msgspec import UNSET, Struct

from .issues import Issue, shorten

_NUMBER: TypeAlias = int | float
_ID: TypeAlias = int | float | str
#: Parts of the boxes, if these are more than a few, from which on they look wrong.
_MANY_BEYOND, _MANY_WHOLE, _FEW = 0.3, 0.5, 10


class _Image(Struct, gc=False):
    id: _ID
    file_name: str
    height: _NUMBER
    width: _NUMBER


class _Category(Struct, gc=False):
    id: _ID
    name: str


class _Annotation(Struct, gc=False):
    id: _ID
    image_id: _ID
    category_id: _ID
    bbox: tuple[_NUMBER, _NUMBER, _NUMBER, _NUMBER]
    area: _NUMBER
    iscrowd: Any = UNSET
    ignore: Any = None
    #: The mask's text in the file, which takes long to read.
    segmentation: msgspec.Raw = msgspec.Raw()


class _Lists(Struct):
    images: list[_Image] | None = None
    categories: list[_Category] | None = None
    annotations: list[_Annotation] | None = None


class _Wrong(NamedTuple):
    """What stands in the place of an entry that has not what mmdet reads of it."""

    id: Any
    reason: str


class CocoFile(NamedTuple):
    """A file of COCO's format.

    Attributes:
        path: Where it is.
        images: Its entries by their ids; None for those that are wrong.
        categories: Likewise.
        annotations: Likewise.
        issues: Of entries that are wrong, and of ids that are used twice.
    """

    path: str
    images: dict[Any, Any]
    categories: dict[Any, Any]
    annotations: dict[Any, Any]
    issues: list[Issue]

    @property
    def names(self) -> list[str]:
        """The names of the categories, in their order."""
        return [category.name for category in self.categories.values() if category]


def read_coco(path: str, backend_args: dict[str, Any] | None = None) -> CocoFile:
    """Read a file of COCO's format.

    What the checks do not need is skipped, so that COCO's own 860,000 annotations take seconds.

    Args:
        path: The file.
        backend_args: How mmengine gets it.

    Raises:
        OSError, ValueError: If it cannot be read, is no JSON, or is of another form.
    """
    file = CocoFile(path, {}, {}, {}, [])
    with get_local_path(path, backend_args=backend_args) as local_path:
        lists = _read(local_path)
    for name, entries in lists.items():
        table = getattr(file, name)
        for i, entry in enumerate(entries):
            if isinstance(entry, _Wrong):
                kind = 'entries with missing or wrong fields'
                file.issues.append(Issue(kind, f'{file.path}: {name}[{i}]', entry.reason))
            if entry.id in table:
                place = f'{file.path}: {name}[{i}]'
                file.issues.append(Issue('ids that are used twice', place, f'id {entry.id!r}'))
            table[entry.id] = None if isinstance(entry, _Wrong) else entry
        table.pop(None, None)
    return file


def _read(path: str) -> Mapping[str, Sequence[Any]]:
    names = _Lists.__struct_fields__
    with open(path, 'rb') as file, suppress(msgspec.DecodeError):
        if os.path.getsize(path):  # nothing cannot be mapped
            text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # as long as masks are
            read = msgspec.json.decode(text, type=_Lists)
            if any(getattr(read, name) is not None for name in names):
                return {name: getattr(read, name) or () for name in names}
    # Something is wrong, if only a NaN, which is no JSON but which Python and so mmdet take.
    with open(path, encoding='utf-8') as file:
        content = json.load(file)
    if not isinstance(content, dict) or content.keys().isdisjoint(names):
        there = f'the keys {shorten(content)}' if isinstance(content, dict) else 'no keys'
        raise ValueError(f'COCO has {", ".join(names)}; this file has {there}')
    lists = {name: content.get(name) or () for name in names}
    kinds = dict(images=_Image, categories=_Category, annotations=_Annotation)
    return {name: [_convert(e, kinds[name]) for e in entries] for name, entries in lists.items()}


def _convert(entry: Any, kind: Any) -> Any:
    try:
        if isinstance(entry, dict) and 'segmentation' in entry:
            text = json.dumps(entry['segmentation']).encode()
            entry = {**entry, 'segmentation': msgspec.Raw(text)}
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        key = entry.get('id') if isinstance(entry, dict) else None
        return _Wrong(key if isinstance(key, int | float | str) else None, str(error))


class _Boxes:
    """The annotations of known images and of classes that a data set names.

    Args:
        dataset: The data set.
        file: Its file.

    Attributes:
        entries: The annotations, N.
        images: Their images, N.
        unnamed: Annotations of other categories.
        xywh: (N, 4), in pixels.
        areas: (N,), in pixels.
        sizes: Widths and heights of the images, (N, 2), in pixels.
    """

    def __init__(self, dataset: Any, file: CocoFile) -> None:
        self.entries, self.images, self.unnamed = [], [], []
        names = {id: c.name for id, c in file.categories.items() if c}
        classes = set(dataset.metainfo['classes'])
        for entry in filter(None, file.annotations.values()):
            image, name = file.images.get(entry.image_id), names.get(entry.category_id)
            if image and name in classes:
                self.entries.append(entry)
                self.images.append(image)
            elif image and name is not None:
                self.unnamed.append(entry)
        numbers = chain.from_iterable(e.bbox for e in self.entries)
        self.xywh = np.fromiter(numbers, float).reshape(-1, 4)
        self.areas = np.fromiter((e.area for e in self.entries), float)
        numbers = chain.from_iterable((i.width, i.height) for i in self.images)
        self.sizes = np.fromiter(numbers, float).reshape(-1, 2)


def coco_issues(dataset: Any, file: CocoFile, quick: bool) -> Iterator[Issue]:
    """Check a file: what mmdet cannot load or misunderstands, and what is odd.

    Warnings are of single entries, which mmdet leaves out or takes as they are, or have the path of
    the file for their location: what is odd in it as a whole, with figures.

    Args:
        dataset: The data set of mmdet, which need not be initialised.
        file: Its file.
        quick: See only whether there are masks.
    """
    boxes = _Boxes(dataset, file)
    yield from file.issues
    yield from class_issues(dataset, file)
    yield from _entry_issues(dataset, file, boxes)
    if loads(dataset, 'with_mask'):
        for entry, image in zip(boxes.entries, boxes.images, strict=True):
            # Nothing, or what is empty, has up to four letters: [[]], null.
            if len(entry.segmentation) <= 4:
                place = _place(file.path, entry, image)
                yield Issue('annotations without the mask that the pipeline loads', place)
            elif not quick:
                mask = json.loads(bytes(entry.segmentation))
                yield from _mask(_place(file.path, entry, image), mask, image)
    yield from _file_issues(dataset, file, boxes)


def class_issues(dataset: Any, file: CocoFile) -> Iterator[Issue]:
    """Compare the classes of a data set with the categories of a file."""
    classes, names = list(dataset.metainfo['classes']), file.names
    named = [name for name in names if name in classes]
    if missing := [name for name in classes if name not in names]:
        message = f'{shorten(missing)}; the categories are {shorten(names)}'
        yield Issue('metainfo.classes without a category in their file', file.path, message)
    elif named != classes:
        message = f'mmdet numbers them {shorten(named)}; metainfo.classes is {shorten(classes)}'
        yield Issue('categories in another order than metainfo.classes', file.path, message)


def _entry_issues(dataset: Any, file: CocoFile, boxes: _Boxes) -> Iterator[Issue]:
    path, training = file.path, not dataset.test_mode
    keeps_empty = (dataset.filter_cfg or {}).get('filter_empty_gt') is False
    for name in _Lists.__struct_fields__:
        # The annotations of test-dev are kept secret; a set may be of empty images on purpose.
        needed = training and not keeps_empty and loads(dataset, 'with_bbox')
        needed = needed or name != 'annotations'
        if needed and not getattr(file, name):
            yield Issue('annotation files with an empty list', path, f'no {name}')
    for entry in filter(None, file.annotations.values()):
        if entry.image_id not in file.images:
            message = _unknown('image', entry.image_id, file.images)
            yield Issue('annotations of unknown images', _place(path, entry), message)
        elif entry.category_id not in file.categories:
            message = _unknown('category', entry.category_id, file.categories)
            yield Issue('annotations of unknown categories', _place(path, entry), message)
    kind = 'annotations of other categories than metainfo.classes'
    for entry in boxes.unnamed:
        name = file.categories[entry.category_id].name
        yield Issue(kind, _place(path, entry), repr(name), True)
    for (category, warning), i in _look_at(boxes):
        entry, image = boxes.entries[i], boxes.images[i]
        message = f'box {list(entry.bbox)}, area {entry.area}, in {image.width} x {image.height}'
        yield Issue(category, _place(path, entry, image), message, warning)
    for entry, image in zip(boxes.entries, boxes.images, strict=True):
        if entry.ignore or entry.iscrowd:
            kind = 'annotations marked ignore or iscrowd'
            yield Issue(kind, _place(path, entry, image), warning=True)
    if training and (dataset.filter_cfg or {}).get('filter_empty_gt'):
        labelled = {image.id for image in boxes.images}
        for image in filter(None, file.images.values()):
            if image.id not in labelled:
                place = f'{path}: image {image.id!r}, {image.file_name}'
                yield Issue('images without annotation, left out by filter_cfg', place, '', True)


def _file_issues(dataset: Any, file: CocoFile, boxes: _Boxes) -> Iterator[Issue]:
    path, number = file.path, len(boxes.entries)
    entries = list(filter(None, file.annotations.values()))
    if without := sum(entry.iscrowd is UNSET for entry in entries):
        message = f'{without} of {len(entries)} annotations'
        yield Issue('annotation files without iscrowd, taken as 0', path, message, True)
    names = Counter(image.file_name for image in file.images.values() if image)
    if twice := [name for name, count in names.items() if count > 1]:
        message = f'{len(twice)} of {len(names)}, e.g. {twice[0]}'
        yield Issue('images that are listed more than once', path, message, True)
    if not number or not loads(dataset, 'with_bbox'):
        return
    ends = boxes.xywh[:, :2] + boxes.xywh[:, 2:]
    if ends.max() <= 1:
        kind = 'boxes that are parts of their image instead of pixels'
        yield Issue(kind, path, f'all {number} lie between 0 and 1')
        return
    beyond = int((ends > boxes.sizes + 1).any(1).sum())
    if beyond >= max(_FEW, _MANY_BEYOND * number):
        message = f'{beyond} of {number} end beyond their image'
        yield Issue('boxes that look like corners, not x, y, width, height', path, message, True)
    whole = int((boxes.xywh[:, 2:] >= 0.95 * boxes.sizes).all(1).sum())
    if whole >= max(_FEW, _MANY_WHOLE * number):
        message = f'{whole} of {number}'
        yield Issue('boxes that cover their whole image', path, message, True)
    used = {file.categories[entry.category_id].name for entry in boxes.entries}
    classes = dataset.metainfo['classes']
    if not dataset.test_mode and (unused := [name for name in classes if name not in used]):
        message = f'{len(unused)} of {len(classes)}: {shorten(unused)}'
        yield Issue('classes that no box is of', path, message, True)


def loads(dataset: Any, what: str) -> bool:
    """Tell whether the pipeline loads boxes (``with_bbox``), masks or label maps."""
    steps = dataset.pipeline.transforms
    # LoadEmptyAnnotations has the same arguments, and reads nothing.
    return any(getattr(s, what, False) and 'Empty' not in type(s).__name__ for s in steps)


def _place(path: str, entry: Any, image: _Image | None = None) -> str:
    return f'{path}: annotation {entry.id!r}' + (f' of {image.file_name}' if image else '')


def _unknown(kind: str, key: Any, table: Mapping[Any, Any]) -> str:
    same = [other for other in table if str(other) == str(key)]
    return f'{kind} {key!r}' + (f'; there is {same[0]!r}, of another type' if same else '')


def _look_at(boxes: _Boxes) -> Iterator[tuple[tuple[str, bool], int]]:
    """Find odd boxes: what they are, whether mmdet takes or skips them, and their number."""
    (x, y, w, h), (width, height) = boxes.xywh.T, boxes.sizes.T
    finite = np.isfinite(boxes.xywh).all(1) & np.isfinite(boxes.areas)
    outside = np.minimum(x + w, width) <= np.maximum(x, 0)
    outside |= np.minimum(y + h, height) <= np.maximum(y, 0)
    kinds = {
        ('boxes or areas that are not finite', False): ~finite,
        # When CocoDataset leaves a box out.
        ('boxes with no area or less than a pixel wide or high', True): (
            (boxes.areas <= 0) | (w < 1) | (h < 1)
        ),
        ('boxes wholly outside the image', True): outside,
        # COCO's own do by less, by rounding.
        ('boxes that stick out of the image', True): (
            np.min([x, y, width - x - w, height - y - h], axis=0) < -1
        ),
    }
    found = np.select(list(kinds.values()), range(len(kinds)), -1)
    for i in np.flatnonzero(found >= 0).tolist():
        yield list(kinds)[found[i]], i


def _mask(place: str, mask: Any, image: _Image) -> Iterator[Issue]:
    """Find what crashes pycocotools, or makes it return garbage or take all memory."""
    text, height, width = str(mask)[:60], image.height, image.width
    if isinstance(mask, dict) and isinstance(mask.get('counts'), list | str):
        counts, size = mask['counts'], mask.get('size')
        runs = _runs(counts) if isinstance(counts, str) else counts
        if size != [height, width]:
            category = 'masks of another size (height, width) than their image'
            yield Issue(category, place, f'size {size} in an image of {height} x {width}')
        elif not all(_is_finite(run) and run >= 0 for run in runs) or sum(runs) != height * width:
            yield Issue('RLE masks whose counts do not sum up to their size', place, text)
    elif isinstance(mask, list) and all(
        isinstance(polygon, list) and all(map(_is_finite, polygon)) for polygon in mask
    ):
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask):
            yield Issue('polygons that are not three or more points', place, text, warning=True)
    else:
        yield Issue('masks that are neither polygons of finite numbers nor RLE', place, text)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


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
