"""Find what is wrong in the data sets of a config, or does not fit its model.

A quick look, before every run, reads annotation files, names and a few images. A whole check
loads all samples of any data set as its pipeline does.
"""

from __future__ import annotations

import copy
import inspect
import io
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from itertools import takewhile
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from ..builders import find_type, leaf_datasets, quiet
from ..errors import UserError
from ..images import check_image
from .checks import downloads_itself, is_local
from .coco import coco_issues, loads, read_coco, steps_of
from .issues import Issue, count_errors, shorten, summarise_issues
from .needs import (
    Data,
    checkpoint_issues,
    has_maps,
    head_classes,
    head_issues,
    is_known,
    metric_issues,
    picture_issues,
    pipeline_issues,
)

#: Files of fewer images per worker are sooner decoded than a worker is started.
_IMAGES_PER_WORKER = 64
#: How many files a quick look opens of each data set.
_LOOKED_AT = 16
#: Part of a label map's pixels from which on they are too many to be ignored.
_MOSTLY = 0.8


@quiet()
def check_problem(
    cfg: Config,
    model: nn.Module,
    parts: Sequence[str],
    checkpoint: str | None = None,
    dataset_meta: Mapping[str, Any] | None = None,
) -> list[str]:
    """Check, within seconds, that model, data sets and evaluators are about the same problem.

    Args:
        cfg: The whole config.
        model: Its model, which may be without memory.
        parts: Of ``'train'``, ``'val'`` and ``'test'``, what will run.
        checkpoint: Whose weights are loaded; the classes that it names are compared.
        dataset_meta: What the checkpoint says of its data; None reads it.

    Returns:
        Warnings: what is odd.

    Raises:
        UserError: Naming the first contradiction.
    """
    issues = validate_datasets(
        cfg, parts, model=model, quick=True, checkpoint=checkpoint, dataset_meta=dataset_meta
    )
    if errors := summarise_issues(issues, warning=False):
        more = f' (tools/check_dataset.py lists all {len(errors)} mistakes)' if errors[1:] else ''
        raise UserError(errors[0] + more)
    return summarise_issues(issues, warning=True)


def validate_datasets(
    cfg: Config,
    parts: Sequence[str],
    workers: int = 0,
    *,
    model: nn.Module | None = None,
    quick: bool = False,
    checkpoint: str | None = None,
    dataset_meta: Mapping[str, Any] | None = None,
) -> dict[str, list[Issue]]:
    """Check annotations, images and label maps, and whether they fit each other and the model.

    Args:
        cfg: The whole config.
        parts: Of ``'train'``, ``'val'`` and ``'test'``, what to check; a data set that was checked
            as another part is left out.
        workers: Processes that load; 0 loads in this one.
        model: The config's model, which may be without memory.
        quick: Look at annotation files, names and a few images only, and leave out warnings of
            single entries.
        checkpoint: A file whose classes, if it names them, are compared with the data sets'.
        dataset_meta: What the checkpoint says of its data; None reads it.

    Returns:
        The issues of each data set, by its dotted key in the config.

    Raises:
        UserError: If a process that loads was killed.
    """
    known: list[Data] = []
    uses: list[tuple[str, Data]] = []
    for part in parts:
        loader = cfg.get(f'{part}_dataloader') or {}
        for key, config in leaf_datasets(f'{part}_dataloader.dataset', loader.get('dataset')):
            data = next((other for other in known if other.config == config), None)
            if data is None:
                known.append(data := Data(key, config))
                if not quick or _is_quick(config, key):
                    _examine(data, model, workers, quick)
            uses.append((part, data))
    loaded = [data for data in known if data.dataset is not None]
    for data in loaded[:1]:
        data.issues += checkpoint_issues(checkpoint, dataset_meta, data)
    for data in loaded:
        data.issues += _contradictions(data, loaded)
    for part, data in uses:
        if data in loaded:
            data.add(pipeline_issues(model, data, part))
            data.add(metric_issues(cfg, model, data, part))
            data.add(picture_issues(cfg, data, part))
    for part in parts:
        several = [data for name, data in uses if name == part]
        if several and all(data.used is not None for data in several):
            classes, used = several[0].classes, {n for data in several for n in data.used or ()}
            if unused := [name for name in classes if name not in used]:
                message = f'{len(unused)} of {len(classes)}: {shorten(unused)}'
                several[0].add([Issue('classes without a sample', '', message, warning=True)])
    return {data.key: data.issues for data in known}


def _is_quick(config: Mapping[str, Any], key: str) -> bool:
    """Tell whether a data set's files are here, and its class builds without reading them."""
    found = find_type(DATASETS, config, key)
    lazy = inspect.isclass(found) and issubclass(found, BaseDataset)
    return lazy and is_local(config) and not downloads_itself(config)


def _examine(data: Data, model: nn.Module | None, workers: int, quick: bool) -> None:
    """Load a data set, and look at its names and its samples."""
    data.issues += _metainfo_issues(data.config)
    if data.issues:  # all that follows would be about names that nobody meant
        return
    try:
        _load(data, model, quick)
        data.issues += head_issues(model, data)
        if data.infos is not None:
            _look_at(data, model, workers, quick)
    except UserError:
        raise
    except Exception as error:  # whatever the broken file leads the data set's class to
        root, file = (data.config.get(name) or '' for name in ('data_root', 'ann_file'))
        reason = f'{type(error).__name__}: {error}'
        if not count_errors(data.issues):  # which are its causes
            place = os.path.join(root, file)
            data.issues.append(Issue('data sets that cannot be loaded', place, reason))


def _metainfo_issues(config: Mapping[str, Any]) -> Iterator[Issue]:
    """Find names of classes that mmengine does not read."""
    metainfo = config.get('metainfo') or {}
    unread, no_list = 'names of classes that are not read', 'names of classes that are no list'
    if not isinstance(metainfo, Mapping):
        yield Issue(unread, '', f'metainfo is {metainfo!r:.100}; write dict(classes=...)')
        return
    for name in metainfo:
        if name != 'classes' and name.lower() in ('classes', 'class'):
            yield Issue(unread, '', f'metainfo has {name}; write classes')
    classes = metainfo.get('classes')
    if isinstance(classes, str) and not os.path.isfile(classes):
        yield Issue(no_list, '', f'metainfo.classes is the text {classes!r}; write ({classes!r},)')


def _load(data: Data, model: nn.Module | None, quick: bool) -> None:
    """Build a data set, and find what is wrong in the file or the folders that name its samples."""
    with redirect_stdout(io.StringIO()):  # mmdet and pycocotools print
        dataset = _build(data.config)
        if is_coco := _is_coco(dataset):
            data.file = file = read_coco(dataset.ann_file, dataset.backend_args)
            for issue in coco_issues(dataset, file, quick):
                if not quick or not issue.warning or issue.location == file.path:
                    data.issues.append(issue)
            if file.annotations or not dataset.test_mode:
                data.used = file.labelled
        elif getattr(dataset, 'with_label', False):
            data.issues += _list_issues(dataset) if dataset.ann_file else _folder_issues(dataset)
        if quick and is_coco:  # annotations take long to index
            folder, entries = dataset.data_prefix['img'], filter(None, file.images.values())
            data.infos = [
                dict(img_path=os.path.join(folder, e.file_name), height=e.height, width=e.width)
                for e in entries
            ]
        elif not quick or not loads(dataset, 'with_bbox'):
            data.infos = _infos_of(dataset)
    data.classes = list(dataset.metainfo.get('classes') or ())
    of_head = has_maps(dataset) or getattr(dataset, 'with_label', False)
    heads = head_classes(model if of_head else None)
    data.num_classes = len(data.classes) or max(heads.values(), default=math.inf)
    labels: set[int] = set()
    for info in data.infos or ():
        labels.update(here := _labels_of(info))
        for label in here:
            if not 0 <= label < data.num_classes:
                message = _out_of(str(label), data.num_classes)
                data.issues.append(Issue('labels out of range', str(info.get('img_path')), message))
    if data.infos and not is_coco and not has_maps(dataset):
        data.used = {name for i, name in enumerate(data.classes) if i in labels}
    data.dataset = dataset


def _build(config: Mapping[str, Any]) -> Any:
    try:
        # mmengine cannot serialise an empty list.
        return DATASETS.build({**config, 'lazy_init': True, 'serialize_data': False})
    except TypeError:  # some classes take neither
        return DATASETS.build(dict(config))


def _infos_of(dataset: Any) -> Sequence[dict[str, Any]]:
    """List what a data set knows of each sample."""
    if hasattr(dataset, 'full_init'):  # others load when they are built
        dataset.full_init()
    infos = getattr(dataset, 'data_list', None)
    return infos or [dataset.get_data_info(index) for index in range(len(dataset))]


def _labels_of(info: Mapping[str, Any]) -> set[int]:
    label = info.get('gt_label', [])
    # Of several tasks each has classes of its own.
    labels = [] if isinstance(label, Mapping) else np.atleast_1d(label).tolist()
    labels += [instance.get('bbox_label') for instance in info.get('instances', ())]
    return {label for label in labels if isinstance(label, int)}


def _is_coco(dataset: Any) -> bool:
    """Tell whether CocoDataset's own code reads the file: its subclasses' formats may differ."""
    return all(
        _is_of(dataset, name, 'mmdet', 'CocoDataset')
        for name in ('load_data_list', 'parse_data_info')
    )


def _is_of(dataset: Any, name: str, package: str, owner: str) -> bool:
    """Tell whether a method is that of a package's class, and not a subclass's or a namesake's."""
    method: Any = getattr(type(dataset), name, None)
    module = getattr(method, '__module__', None) or ''
    return module.startswith(f'{package}.') and method.__qualname__ == f'{owner}.{name}'


def _folder_issues(dataset: Any) -> Iterator[Issue]:
    """Compare the folders that are classes to mmpretrain with the names of the classes."""
    place = dataset.img_prefix
    with os.scandir(place) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir())
    classes = list(dataset.metainfo.get('classes') or folders)
    if hidden := [name for name in folders if name.startswith('.')]:
        message = f'{shorten(hidden)}; remove what some program left there'
        yield Issue('hidden folders that count as classes', place, message)
    elif len(folders) != len(classes):
        if not folders:
            advice = 'put each image into a folder of its class'
        elif {*folders} < {*classes}:
            missing = shorten(name for name in classes if name not in folders)
            advice = f'make one for {missing}, if only empty'
        else:
            names = tuple(folders) if len(folders) <= 20 else '(...)'
            advice = f'write metainfo=dict(classes={names}) into the data set'
        message = f'{len(folders)} folders, while metainfo.classes has {len(classes)}; {advice}'
        yield Issue('folders that are not the classes', place, message)
    elif set(folders) == set(classes) and folders != classes:
        message = f'mmpretrain numbers them {shorten(folders)}; metainfo.classes is'
        message = f'{message} {shorten(classes)}'
        yield Issue('folders in another order than metainfo.classes', place, message)


def _list_issues(dataset: Any) -> Iterator[Issue]:
    """Find the first line that mmpretrain cannot read in a list of images and labels."""
    path = dataset.ann_file
    if _is_of(dataset, 'load_data_list', 'mmpretrain', 'CustomDataset'):
        for i, line in enumerate(list_from_file(path), 1):
            if not re.fullmatch(r'.+ -?\d+', line.strip()):
                message = f'line {i} is {line!r:.80}; write PATH NUMBER'
                yield Issue('lists that cannot be read', path, message)
                return


def _out_of(labels: str, number: float) -> str:
    return labels if math.isinf(number) else f'{labels}, of {number} classes'


def _contradictions(data: Data, loaded: Sequence[Data]) -> Iterator[Issue]:
    """Compare a data set with the first one, and with those that are trained on."""
    first = next((other for other in loaded if other.classes), data)
    if data.classes and data.classes != first.classes:
        message = f'{shorten(data.classes)}; {first.key} has {shorten(first.classes)}'
        yield Issue('classes that differ between data sets', '', message)
    for other in loaded:
        trained = other.key.startswith('train_') and not data.key.startswith('train_')
        if trained and (both := data.images & other.images):
            message = f'{len(both)} of {len(data.images)}, e.g. {min(both)}'
            yield Issue(f'images that {other.key} has too', '', message, True)


class _Samples(Dataset):
    """What is wrong with each sample of a data set, and how many pixels have each label.

    Of COCO a quick look takes the images alone. Masks are loaded only after they were checked,
    because pycocotools may crash.
    """

    def __init__(self, data: Data, model: nn.Module | None, quick: bool) -> None:
        self.infos, self.num_classes = data.infos or (), data.num_classes
        head = getattr(model, 'decode_head', None)
        head = head[-1] if isinstance(head, nn.ModuleList) else head  # a cascade's
        self.ignore_index = getattr(head, 'ignore_index', 255)
        # Not the steps that change what was loaded.
        steps = [s for s in steps_of(data.dataset) if type(s).__name__.startswith('Load')]
        if quick:  # others' may need what has been left out
            steps = [*takewhile(is_known, steps[:1] if data.file else steps)]
        masks = not count_errors(data.issues)
        self.steps = [s for s in steps if masks or not getattr(s, 'with_mask', False)]
        self.load_map = next((s for s in steps if getattr(s, 'with_seg', False)), None)

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> tuple[list[Issue], Counter[int]]:
        info = copy.deepcopy(self.infos[index])
        pixels: Counter[int] = Counter()
        checked = None
        for step in self.steps if 'img_path' in info else ():
            path, what = str(info['img_path']), 'images'
            if step is self.load_map and info.get('seg_map_path'):
                path, what = info['seg_map_path'], 'label maps'
            elif hasattr(step, 'with_bbox'):
                what = 'annotations'
            try:
                if path != checked:
                    check_image(path)
                checked, info = path, step(info) or info  # nothing, of what ignore_empty drops
            except FileNotFoundError:
                return [Issue(f'missing {what}', path)], pixels
            except Exception as error:  # decoders raise errors of their own
                reason = ' '.join(f'{type(error).__name__}: {error}'.split())
                return [Issue(f'{what} that cannot be loaded', path, reason)], pixels
        return [*self._sizes(info), *self._map_values(info, pixels)], pixels

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

    def _map_values(self, info: Mapping[str, Any], counted: Counter[int]) -> Iterator[Issue]:
        """Count the labels of a map."""
        path, step = info.get('seg_map_path'), self.load_map
        if not path or step is None or 'label_map' not in info:  # mmdet's are of forms that vary
            return
        # The numbers as the file has them: mmseg cuts them to 8 bits.
        options = dict(backend=step.imdecode_backend, backend_args=step.backend_args)
        pixels = mmcv.imread(path, 'unchanged', **options).squeeze()
        if pixels.ndim != 2:
            yield Issue('label maps of several channels', path, str(pixels.shape[2]))
            return
        # Of names that a config chooses, by the numbers of the whole list.
        chosen = info['label_map'] or {}
        known = {*(chosen or range(int(min(self.num_classes, 256)))), self.ignore_index}
        wrong = []
        values, counts = np.unique(pixels, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            label = value
            if info['reduce_zero_label']:  # as mmseg does it: 0 and 255 are nothing
                label = 255 if value in (0, 255) else value - 1
            if label not in known:
                wrong.append(value)
            counted[chosen.get(label, label)] += count
        if wrong:
            message = _out_of(shorten(wrong), self.num_classes)
            if path.lower().endswith(('.jpg', '.jpeg')):
                message += '; JPEG changes numbers: save PNG'
            yield Issue('label maps with labels out of range', path, message)


def _look_at(data: Data, model: nn.Module | None, workers: int, quick: bool) -> None:
    """Go through all samples, or a few, and say every few seconds how far."""
    samples = _Samples(data, model, quick)
    total, looked_at = len(samples), range(len(samples))
    if total == 0:
        data.issues.append(_nothing(data.dataset))
    if quick:
        looked_at = looked_at[:: max(1, total // _LOOKED_AT)]
    workers = min(workers, len(looked_at) // _IMAGES_PER_WORKER)
    pixels: Counter[int] = Counter()
    last = time.monotonic()
    try:
        # No batches, and no conversion to tensors.
        some = Subset(samples, looked_at)
        loader = DataLoader(some, batch_size=None, num_workers=workers, collate_fn=tuple)
        for i, (issues, counts) in enumerate(loader, 1):
            data.issues += issues
            pixels += counts
            if time.monotonic() - last > 5:
                last = time.monotonic()
                print(f'{data.key}: {i}/{total} images', file=sys.stderr, flush=True)
    except RuntimeError as error:  # what a worker's death is to torch
        raise UserError(f'{data.key}: the check was stopped: {error}') from error
    if pixels and not count_errors(data.issues):
        used = {name for i, name in enumerate(data.classes) if pixels[i]}
        part = pixels[samples.ignore_index] / pixels.total()
        if len(used) < 2 <= len(data.classes) or part > _MOSTLY:
            unused = shorten(name for name in data.classes if name not in used)
            message = (
                f'{part:.0%} of the pixels of {len(looked_at)} label maps are '
                f'{samples.ignore_index}, which is ignored'
                f'{f", and none has {unused}" if unused else ""}: the value of a pixel is the '
                'number of its class, from 0'
            )
            if getattr(data.dataset, 'reduce_zero_label', False):
                message += '; reduce_zero_label=True ignores 0 too'
            data.issues.append(Issue('label maps with little to learn from', '', message, True))
        elif len(looked_at) == total:
            data.used = used


def _nothing(dataset: Any) -> Issue:
    """Say what there is in the folder of a data set in which no image was found."""
    suffix = getattr(dataset, 'img_suffix', None)
    folder = (getattr(dataset, 'data_prefix', None) or {}).get('img_path') or ''
    message = ''
    if suffix is not None and os.path.isdir(folder):
        there = sorted({os.path.splitext(name)[1] for name in os.listdir(folder)})
        message = f'img_suffix is {suffix!r}, the files have {shorten(there) or "nothing"}'
    return Issue('data sets without an image to load', folder, message)
