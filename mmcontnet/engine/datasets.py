"""Find what is wrong in the data sets of a config, or does not fit its model.

A quick look, before every run, reads annotation files, names and a few images. A whole check
loads all samples of any data set as its pipeline does.
"""

from __future__ import annotations

import inspect
import io
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
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
from .coco import coco_issues, read_coco
from .issues import Issue, count_errors, shorten, summarise_issues
from .needs import (
    Data,
    checkpoint_issues,
    has_maps,
    head_classes,
    head_issues,
    metric_issues,
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
    with redirect_stdout(io.StringIO()):  # mmdet and mmseg print what they do not find
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
    issues: dict[str, list[Issue]] = {}
    known: dict[str, Data] = {}
    used: dict[str, set[str] | None] = {}
    seen: dict[str, Mapping[str, Any]] = {}
    evaluated: list[tuple[str, str]] = []
    for part in parts:
        loader = cfg.get(f'{part}_dataloader') or {}
        for key, config in leaf_datasets(f'{part}_dataloader.dataset', loader.get('dataset')):
            same = next((other for other in seen if seen[other] == config), None)
            evaluated.append((part, same or key))
            if same or (quick and not _is_quick(config, key)):
                continue
            seen[key] = config
            found = issues[key] = list(_metainfo_issues(config))
            if found:  # all that follows would be about names that nobody meant
                continue
            try:
                dataset = _build(config)
                found += _list_issues(dataset, model if quick else None)
                known[key] = data = _read(dataset, found, quick)
                found += head_issues(model, data)
                if key == next(iter(seen)):
                    found += checkpoint_issues(checkpoint, dataset_meta, data)
                used[key] = data.used
                if not quick or has_maps(dataset) or data.file:
                    samples = _Samples(data, model, not count_errors(found), quick)
                    occur = _look_at(samples, key, workers, quick, found)
                    used[key] = occur if data.used is None and not data.file else data.used
            except UserError:
                raise
            except Exception as error:  # whatever the broken file leads the data set's class to
                path = os.path.join(config.get('data_root') or '', config.get('ann_file') or '')
                reason = f'{type(error).__name__}: {error}'
                if not count_errors(found):  # which are its causes
                    found.append(Issue('data sets that cannot be loaded', path, reason))
    for key, found in _compare(known).items():
        issues[key] += found
    for part, key in evaluated:
        if key in known:
            found = issues[key]
            more = [
                *pipeline_issues(model, known[key], part, key),
                *metric_issues(cfg, model, known[key], part),
            ]
            found += [issue for issue in more if issue not in found]
    for part in parts:
        several = [key for name, key in evaluated if name == part]
        if several and all(used.get(key) is not None for key in several):
            classes, names = known[several[0]].classes, {n for k in several for n in used[k] or ()}
            unused = [name for name in classes if name not in names]
            message = f'{len(unused)} of {len(classes)}: {shorten(unused)}'
            issue = Issue('classes without a sample', '', message, warning=True)
            if unused and issue not in issues[several[0]]:
                issues[several[0]].append(issue)
    return issues


def _is_quick(config: Mapping[str, Any], key: str) -> bool:
    """Tell whether a data set's files are here, and its class builds without reading them."""
    found = find_type(DATASETS, config, key)
    lazy = inspect.isclass(found) and issubclass(found, BaseDataset)
    return lazy and is_local(config) and not downloads_itself(config)


def _metainfo_issues(config: Mapping[str, Any]) -> Iterator[Issue]:
    """Find names of classes that mmengine does not read."""
    metainfo = config.get('metainfo') or {}
    if not isinstance(metainfo, Mapping):
        message = f'metainfo is {metainfo!r:.100}; write dict(classes=...)'
        yield Issue('names of classes that are not read', '', message)
        return
    for name in metainfo:
        if name != 'classes' and name.lower() in ('classes', 'class'):
            message = f'metainfo has {name}; write classes'
            yield Issue('names of classes that are not read', '', message)
    classes = metainfo.get('classes')
    if isinstance(classes, str) and not os.path.isfile(classes):
        message = f'metainfo.classes is the text {classes!r}; write ({classes!r},)'
        yield Issue('names of classes that are no list', '', message)


def _build(config: Mapping[str, Any]) -> Any:
    try:
        # mmengine cannot serialise an empty list.
        return DATASETS.build({**config, 'lazy_init': True, 'serialize_data': False})
    except TypeError:  # some classes take neither
        return DATASETS.build(dict(config))


def _read(dataset: Any, found: list[Issue], quick: bool) -> Data:
    """Read what names samples and classes."""
    file, used, images = None, None, set()
    palette, names = (dataset.metainfo.get(name) for name in ('palette', 'classes'))
    if isinstance(palette, list | tuple) and len(palette) < len(names or ()):
        message = f'{len(palette)} for {len(names)} classes'
        # Nobody need care for the colours of a package's class until pictures are drawn.
        inherited = palette == getattr(type(dataset), 'METAINFO', {}).get('palette')
        found.append(Issue('palettes of too few colours', 'metainfo.palette', message, inherited))
    if is_coco := _is_coco(dataset):
        file = read_coco(dataset.ann_file, dataset.backend_args)
        for issue in coco_issues(dataset, file, quick):
            if not quick or not issue.warning or issue.location == file.path:
                found.append(issue)
        entries, folder = filter(None, file.images.values()), dataset.data_prefix['img']
        images = {os.path.join(folder, entry.file_name) for entry in entries}
        if file.annotations or not dataset.test_mode:
            used = file.labelled
    folders = _class_folders(dataset)
    classes = list(dataset.metainfo.get('classes') or folders or ())
    if folders is not None:
        used = {name for name in folders if _has_image(dataset, name)}
        found += _folder_issues(dataset, classes, folders)
        if folders and not used:
            message = f'no file in its folders ends in {" ".join(sorted(dataset.extensions))}'
            found.append(Issue('data sets without an image to load', dataset.img_prefix, message))
    # Others load when they are built.
    if hasattr(dataset, 'full_init') and (not quick or has_maps(dataset)):
        with redirect_stdout(io.StringIO()):  # pycocotools prints
            dataset.full_init()
        if not is_coco:
            infos = (_info_of(dataset, index) for index in range(len(dataset)))
            images = {str(info['img_path']) for info in infos if 'img_path' in info}
    return Data(dataset, classes, images, file, used)


def _info_of(dataset: Any, index: int) -> dict[str, Any]:
    """Return what is known of a sample; mmpretrain's MultiTaskDataset has only a list of that."""
    read = getattr(dataset, 'get_data_info', None) or dataset.data_list.__getitem__
    return dict(read(index))


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


def _class_folders(dataset: Any) -> list[str] | None:
    """List the folders that are classes to mmpretrain; None where a file says what is what."""
    if not getattr(dataset, 'with_label', False) or dataset.ann_file:
        return None
    with os.scandir(dataset.img_prefix) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _has_image(dataset: Any, name: str) -> bool:
    folder, suffixes = os.path.join(dataset.img_prefix, name), tuple(dataset.extensions)
    with os.scandir(folder) as entries:  # nearly always the first, of thousands
        if any(entry.name.lower().endswith(suffixes) for entry in entries):
            return True
    files = (file for _, _, files in os.walk(folder) for file in files)
    return any(file.lower().endswith(suffixes) for file in files)


def _folder_issues(dataset: Any, classes: Sequence[str], folders: Sequence[str]) -> Iterator[Issue]:
    place = dataset.img_prefix
    if hidden := [name for name in folders if name.startswith('.')]:
        message = f'{shorten(hidden)}; remove what some program left there'
        yield Issue('hidden folders that count as classes', place, message)
    elif len(folders) != len(classes):
        if folders and {*folders} < {*classes}:
            advice = (
                f'make one for {shorten(c for c in classes if c not in folders)}, if only empty'
            )
        elif folders:
            names = tuple(folders) if len(folders) <= 20 else '(...)'
            advice = f'write metainfo=dict(classes={names}) into the data set'
        else:
            advice = 'put each image into a folder of its class'
        message = f'{len(folders)} folders, while metainfo.classes has {len(classes)}; {advice}'
        yield Issue('folders that are not the classes', place, message)
    elif set(folders) == set(classes) and list(folders) != list(classes):
        message = f'mmpretrain numbers them {shorten(folders)}; metainfo.classes is'
        message = f'{message} {shorten(classes)}'
        yield Issue('folders in another order than metainfo.classes', place, message)


def _out_of(labels: str, number: float) -> str:
    return labels if math.isinf(number) else f'{labels}, of {number} classes'


def _list_issues(dataset: Any, model: nn.Module | None) -> Iterator[Issue]:
    """Check a list of images and labels, as mmpretrain reads it; labels by the model's head."""
    if not _is_of(dataset, 'load_data_list', 'mmpretrain', 'CustomDataset'):
        return
    path, number = dataset.ann_file, max(head_classes(model).values(), default=math.inf)
    lines = list_from_file(path) if path and dataset.with_label else []
    for i, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(' ')
        if not name or not label.removeprefix('-').isdecimal():
            message = f'line {i} is {line!r:.80}; write PATH NUMBER'
            yield Issue('lists that cannot be read', path, message)
            return
        if not 0 <= int(label) < number:
            yield Issue('labels out of range', f'{path}: {name}', _out_of(label, number))


def _compare(known: Mapping[str, Data]) -> dict[str, list[Issue]]:
    """Find contradictions between data sets."""
    issues: dict[str, list[Issue]] = {key: [] for key in known}
    named = [(key, data) for key, data in known.items() if data.classes]
    for key, data in named:
        first, other = named[0]
        if data.classes != other.classes:
            message = f'{shorten(data.classes)}; {first} has {shorten(other.classes)}'
            issues[key].append(Issue('classes that differ between data sets', '', message))
    training = {key: data for key, data in known.items() if key.startswith('train_')}
    for key in known.keys() - training:
        for name, trained in training.items():
            if both := known[key].images & trained.images:
                message = f'{len(both)} of {len(known[key].images)}, e.g. {min(both)}'
                issues[key].append(Issue(f'images that {name} has too', '', message, True))
    return issues


class _Samples(Dataset):
    """What is wrong with each sample of a data set, and its labels: how many, or how many pixels.

    Of COCO a quick look takes the images alone: annotations take long to index. Masks are loaded
    only after they were checked, because pycocotools may crash.
    """

    def __init__(
        self, data: Data, model: nn.Module | None, load_masks: bool, quick: bool = False
    ) -> None:
        self.dataset, self.classes = data.dataset, data.classes
        self.num_classes = len(data.classes) or max(head_classes(model).values(), default=math.inf)
        head = getattr(model, 'decode_head', None)
        head = head[-1] if isinstance(head, nn.ModuleList) else head  # a cascade's
        self.ignore_index = getattr(head, 'ignore_index', 255)
        # Not the steps that change what was loaded.
        steps = [s for s in self.dataset.pipeline.transforms if type(s).__name__.startswith('Load')]
        self.steps = [s for s in steps if load_masks or not getattr(s, 'with_mask', False)]
        self.load_map = next((s for s in steps if getattr(s, 'with_seg', False)), None)
        self.entries: list[Any] | None = None
        if quick and data.file:
            self.entries, self.steps = list(filter(None, data.file.images.values())), steps[:1]

    def __len__(self) -> int:
        return len(self.dataset if self.entries is None else self.entries)

    def __getitem__(self, index: int) -> tuple[list[Issue], Counter[int]]:
        if self.entries is None:
            info = _info_of(self.dataset, index)
        else:
            image, folder = self.entries[index], self.dataset.data_prefix['img']
            info = dict(img_path=os.path.join(folder, image.file_name))
            info.update(height=image.height, width=image.width)
        labels = Counter(i['bbox_label'] for i in info.get('instances', []) if 'bbox_label' in i)
        label = info.get('gt_label', [])
        # Of several tasks each has classes of its own.
        labels.update(np.atleast_1d([] if isinstance(label, Mapping) else label).tolist())
        found = []
        for label in labels:
            if not 0 <= label < self.num_classes:
                message = _out_of(f'{label:g}', self.num_classes)
                found.append(Issue('labels out of range', str(info.get('img_path')), message))
        checked = None
        for step in self.steps or [LoadImageFromFile()]:
            path, what = str(info.get('img_path')), 'images'
            if step is self.load_map and info.get('seg_map_path'):
                path, what = info['seg_map_path'], 'label maps'
            elif hasattr(step, 'with_bbox'):
                what = 'annotations'
            try:
                if path != checked:
                    check_image(path)
                checked, info = path, step(info) or info  # nothing, of what ignore_empty drops
            except FileNotFoundError:
                return [*found, Issue(f'missing {what}', path)], labels
            except Exception as error:  # decoders raise errors of their own
                reason = ' '.join(f'{type(error).__name__}: {error}'.split())
                found.append(Issue(f'{what} that cannot be loaded', path, reason))
                return found, labels
        return [*found, *self._sizes(info), *self._map_values(info, labels)], labels

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

    def _map_values(self, info: Mapping[str, Any], labels: Counter[int]) -> Iterator[Issue]:
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
            labels[chosen.get(label, label)] += count
        if wrong:
            message = _out_of(shorten(wrong), self.num_classes)
            if path.lower().endswith(('.jpg', '.jpeg')):
                message += '; JPEG changes numbers: save PNG'
            yield Issue('label maps with labels out of range', path, message)


def _look_at(
    samples: _Samples, key: str, workers: int, quick: bool, found: list[Issue]
) -> set[str] | None:
    """Go through all samples, or a few, and say every few seconds how far; ``found`` gets issues.

    Returns:
        The names of the classes that occur; None if that is not known, or was told.
    """
    total, looked_at = len(samples), range(len(samples))
    if quick:
        looked_at = looked_at[:: max(1, total // _LOOKED_AT)]
    workers = min(workers, len(looked_at) // _IMAGES_PER_WORKER)
    labels: Counter[int] = Counter()
    last = time.monotonic()
    try:
        # No batches, and no conversion to tensors.
        some = Subset(samples, looked_at)
        loader = DataLoader(some, batch_size=None, num_workers=workers, collate_fn=tuple)
        for i, (issues, counts) in enumerate(loader, 1):
            found += issues
            labels += counts
            if time.monotonic() - last > 5:
                last = time.monotonic()
                print(f'{key}: {i}/{total} images', file=sys.stderr, flush=True)
    except RuntimeError as error:  # what a worker's death is to torch
        raise UserError(f'{key}: the check was stopped: {error}') from error
    if total == 0:
        found.append(_nothing(samples.dataset))
    if total == 0 or count_errors(found):
        return None
    names = {name for i, name in enumerate(samples.classes) if labels[i]}
    part = labels[samples.ignore_index] / max(1, labels.total())
    if samples.load_map and labels and (len(names) < 2 <= len(samples.classes) or part > _MOSTLY):
        unused = shorten(name for name in samples.classes if name not in names)
        message = (
            f'{part:.0%} of the pixels of {len(looked_at)} label maps are {samples.ignore_index}, '
            f'which is ignored{f", and none has {unused}" if unused else ""}: the value of a pixel '
            'is the number of its class, from 0'
        )
        if getattr(samples.dataset, 'reduce_zero_label', False):
            message += '; reduce_zero_label=True ignores 0 too'
        found.append(Issue('label maps with little to learn from', '', message, True))
        return None
    return names if len(looked_at) == total else None


def _nothing(dataset: Any) -> Issue:
    """Say what there is in the folder of a data set in which no image was found."""
    suffix = getattr(dataset, 'img_suffix', None)
    folder = (getattr(dataset, 'data_prefix', None) or {}).get('img_path') or ''
    message = ''
    if suffix is not None and os.path.isdir(folder):
        there = sorted({os.path.splitext(name)[1] for name in os.listdir(folder)})
        message = f'img_suffix is {suffix!r}, the files have {shorten(there) or "nothing"}'
    return Issue('data sets without an image to load', folder, message)
