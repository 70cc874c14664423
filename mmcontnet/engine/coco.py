"""Check COCO's JSON: what mmdet cannot load, misunderstands, skips or uses unchanged."""

from __future__ import annotations

import json
import mmap
import os
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


class _RLE(Struct):
    size: tuple[int, int]
    counts: list[int] | str


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

    @property
    def labelled(self) -> set[str]:
        """The names of the categories with a box that is neither ignored nor empty."""
        boxes = filter(None, self.annotations.values())
        ids = {b.category_id for b in boxes if not (b.iscrowd or b.ignore) and b.area > 0}
        return {category.name for id, category in self.categories.items() if category and id in ids}


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
                file.issues.append(Issue(kind, f'{path}: {name}[{i}]', entry.reason))
            if entry.id in table:
                place = f'{path}: {name}[{i}]'
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
    kinds = dict(images=_Image, categories=_Category, annotations=_Annotation)
    return {name: [_convert(e, kinds[name]) for e in content.get(name) or ()] for name in names}


def _convert(entry: Any, kind: Any) -> Any:
    fields = entry if isinstance(entry, dict) else {}
    read = {name: fields[name] for name in kind.__struct_fields__ if name in fields}
    try:
        text = json.dumps(read if isinstance(entry, dict) else entry, allow_nan=False)
        return msgspec.json.decode(text, type=kind)
    except ValueError as error:
        key = fields.get('id')
        return _Wrong(key if isinstance(key, int | float | str) else None, str(error))


def coco_issues(dataset: Any, file: CocoFile, quick: bool) -> Iterator[Issue]:
    """Check a file: what mmdet cannot load or misunderstands, and what is odd.

    Warnings are of single entries, which mmdet leaves out or takes as they are, or have the path of
    the file for their location: what is odd in it as a whole, with figures.

    Args:
        dataset: The data set of mmdet, which need not be initialised.
        file: Its file.
        quick: See only whether there are masks.
    """
    yield from file.issues
    yield from class_issues(dataset, file)
    path, classes, filters = file.path, {*dataset.metainfo['classes']}, dataset.filter_cfg or {}
    keeps_empty = dataset.test_mode or filters.get('filter_empty_gt') is False
    for name in _Lists.__struct_fields__:
        # The annotations of test-dev are kept secret; a set may be of empty images on purpose.
        needed = name != 'annotations' or (loads(dataset, 'with_bbox') and not keeps_empty)
        if needed and not getattr(file, name):
            yield Issue('annotation files with an empty list', path, f'no {name}')
    # The annotations of known images and of classes that the data set names.
    found: list[tuple[_Annotation, _Image]] = []
    entries = list(filter(None, file.annotations.values()))
    for entry in entries:
        image, category = file.images.get(entry.image_id), file.categories.get(entry.category_id)
        if entry.image_id not in file.images:
            kind, message = 'annotations of unknown images', _no(entry.image_id, file.images)
            yield Issue(kind, _place(path, entry), message)
        elif entry.category_id not in file.categories:
            kind = 'annotations of unknown categories'
            yield Issue(kind, _place(path, entry), _no(entry.category_id, file.categories))
        elif image and category and category.name in classes:
            found.append((entry, image))
        elif image and category:
            kind = 'annotations of other categories than metainfo.classes'
            yield Issue(kind, _place(path, entry), repr(category.name), True)
    if loads(dataset, 'with_mask'):
        yield from _mask_issues(path, found, quick)
    yield from _box_issues(path, found, loads(dataset, 'with_bbox'))
    if filters.get('filter_empty_gt') and not dataset.test_mode:
        filled = {entry.image_id for entry, _ in found}
        for image in filter(None, file.images.values()):
            if image.id not in filled:
                place = f'{path}: image {image.id!r}, {image.file_name}'
                yield Issue('images without annotation, left out by filter_cfg', place, '', True)
    if without := sum(entry.iscrowd is UNSET for entry in entries):
        message = f'{without} of {len(entries)} annotations'
        yield Issue('annotation files without iscrowd, taken as 0', path, message, True)
    names = Counter(image.file_name for image in file.images.values() if image)
    if twice := [name for name, count in names.items() if count > 1]:
        message = f'{len(twice)} of {len(names)}, e.g. {twice[0]}'
        yield Issue('images that are listed more than once', path, message, True)


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


def steps_of(dataset: Any) -> Sequence[Any]:
    """Return the steps of a data set's pipeline, as they are built."""
    return getattr(getattr(dataset, 'pipeline', None), 'transforms', ())


def loads(dataset: Any, what: str) -> bool:
    """Tell whether the pipeline loads boxes (``with_bbox``), masks or label maps."""
    # LoadEmptyAnnotations has the same arguments, and reads nothing.
    steps = [step for step in steps_of(dataset) if 'Empty' not in type(step).__name__]
    return any(getattr(step, what, False) for step in steps)


def _place(path: str, entry: _Annotation, image: _Image | None = None) -> str:
    return f'{path}: annotation {entry.id!r}' + (f' of {image.file_name}' if image else '')


def _no(key: Any, table: Mapping[Any, Any]) -> str:
    same = [other for other in table if str(other) == str(key)]
    return f'there is no {key!r}' + (f', but {same[0]!r}, of another type' if same else '')


def _mask_issues(
    path: str, found: Sequence[tuple[_Annotation, _Image]], quick: bool
) -> Iterator[Issue]:
    """Find masks that are missing, or of a form that may crash pycocotools."""
    for entry, image in found:
        # Nothing, or what is empty, has up to four letters: [[]], null.
        if len(entry.segmentation) <= 4:
            kind = 'annotations without the mask that the pipeline loads'
            yield Issue(kind, _place(path, entry, image))
        elif not quick:
            try:
                msgspec.json.decode(entry.segmentation, type=list[list[float]] | _RLE)
            except msgspec.DecodeError as error:
                kind = 'masks that are neither polygons nor RLE'
                yield Issue(kind, _place(path, entry, image), str(error))


def _box_issues(
    path: str, found: Sequence[tuple[_Annotation, _Image]], needed: bool
) -> Iterator[Issue]:
    """Find odd boxes, and what is odd in all of them, if the pipeline needs them."""
    if not found:
        return
    number = len(found)
    numbers = chain.from_iterable((*e.bbox, e.area, i.width, i.height) for e, i in found)
    x, y, w, h, areas, width, height = np.fromiter(numbers, float).reshape(-1, 7).T
    outside = np.minimum(x + w, width) <= np.maximum(x, 0)
    outside |= np.minimum(y + h, height) <= np.maximum(y, 0)
    # COCO's own boxes stick out by less, by rounding.
    beyond = (np.min([x, y, width - x - w, height - y - h], axis=0) < -1) & ~outside
    kinds = {
        # When CocoDataset leaves a box out.
        'boxes with no area or less than a pixel wide or high': (areas <= 0) | (w < 1) | (h < 1),
        'boxes wholly outside the image': outside,
        'boxes that stick out of the image': beyond,
        'annotations marked ignore or iscrowd': [bool(e.ignore or e.iscrowd) for e, _ in found],
    }
    for kind, odd in kinds.items():
        for i in np.flatnonzero(odd).tolist():
            entry, image = found[i]
            box = f'box {list(entry.bbox)}, area {entry.area}, in {image.width} x {image.height}'
            yield Issue(kind, _place(path, entry, image), box, True)
    if not needed:
        return
    if max((x + w).max(), (y + h).max()) <= 1:
        kind = 'boxes that are parts of their image instead of pixels'
        yield Issue(kind, path, f'all {number} lie between 0 and 1')
        return
    many = int(((x + w > width + 1) | (y + h > height + 1)).sum())
    if many >= max(_FEW, _MANY_BEYOND * number):
        message = f'{many} of {number} end beyond their image'
        yield Issue('boxes that look like corners, not x, y, width, height', path, message, True)
    whole = int(((w >= 0.95 * width) & (h >= 0.95 * height)).sum())
    if whole >= max(_FEW, _MANY_WHOLE * number):
        yield Issue('boxes that cover their whole image', path, f'{whole} of {number}', True)
