"""Every mistake in a data set is found and named; what training tolerates is a warning."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from pycocotools import mask as coco_mask
from torch import nn

from mmcontnet.builders import build_model
from mmcontnet.engine import load_config, report_issues, validate_datasets
from mmcontnet.engine.datasets import _Samples
from mmcontnet.engine.issues import Issue
from mmcontnet.errors import UserError

from ..inprocess import run_tool
from ..integration.configs import write_detector
from ..integration.data import make_class_folders, make_coco, make_label_maps

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='mmpretrain.PackInputs')
JSON = 'annotations/instances_train2017.json'
Change = Callable[[dict], Any]
#: Warnings about most data sets here: they are small.
UNUSED = ('classes without a sample', 'little to learn')


def coco(root: Path, **changes: object) -> dict:
    pipeline = [LOAD, dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    pipeline.append(dict(type='PackDetInputs'))
    dataset = dict(_scope_='mmdet', type='CocoDataset', data_root=str(root), ann_file=JSON)
    return {**dataset, 'data_prefix': dict(img='train2017/'), 'pipeline': pipeline, **changes}


def label_maps(root: Path, **changes: object) -> dict:
    dataset = dict(
        _scope_='mmseg',
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        metainfo=dict(classes=('ground', 'thing'), palette=[[0, 0, 0], [255, 0, 0]]),
        pipeline=[LOAD, dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    )
    return {**dataset, **changes}


def class_folders(root: Path, **changes: object) -> dict:
    dataset = dict(_scope_='mmpretrain', type='CustomDataset', data_root=str(root))
    options = dict(data_prefix='train', extensions=('.jpeg',), pipeline=[LOAD, PACK])
    return {**dataset, **options, **changes}


class Head(nn.Module):
    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index


def issues_of(dataset: dict, model: nn.Module | None = None, workers: int = 0) -> list[Issue]:
    loaders = dict(train_dataloader=dict(dataset=dataset), val_dataloader=dict(dataset=dataset))
    (issues,) = validate_datasets(Config(loaders), ['train', 'val'], workers, model=model).values()
    return [issue for issue in issues if not any(text in issue.category for text in UNUSED)]


def write_coco(root: Path, change: Change = lambda content: None) -> None:
    """Write two images with a triangle for a mask each, after a change of the JSON."""
    make_coco(root, images=2)
    content = json.loads((root / JSON).read_text())
    for annotation in content['annotations']:
        x, y, w, h = annotation['bbox']
        annotation['segmentation'] = [[x, y, x + w, y, x, y + h]]
    change(content)
    (root / JSON).write_text(json.dumps(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def first(table: str = 'annotations', **fields: object) -> Change:
    return lambda content: content[table][0].update(fields)


def mask(segmentation: object) -> Change:
    return first(segmentation=segmentation)


def rle(counts: object) -> Change:
    return mask(dict(size=[97, 126], counts=counts))


def remove(table: str, index: int | None, field: str = '') -> Change:
    if index is None:
        return lambda content: content.pop(table)
    return lambda c: c[table][index].pop(field) if field else c[table].pop(index)


def assert_found(issues: list[Issue], category: str, text: str, warning: bool = False) -> None:
    named = [i for i in issues if category in i.category and re.search(text, str(i))]
    assert len(named) == 1, issues
    assert named[0].warning is warning


def test_whole_data_sets_have_no_issue(tmp_path: Path) -> None:
    for name in ('polygons', 'counts', 'string'):
        random = np.random.RandomState(0).randint(0, 2, (97, 126)).astype(np.uint8, order='F')
        string = coco_mask.encode(random)['counts'].decode()
        changes = dict(polygons=mask([[1, 1, 9, 1, 9, 9]]), counts=rle([5, 97 * 126 - 5]))
        write_coco(tmp_path / name, changes.get(name, rle(string)))
        assert issues_of(coco(tmp_path / name)) == []
    make_label_maps(tmp_path / 'labels')
    assert issues_of(label_maps(tmp_path / 'labels')) == []
    make_class_folders(tmp_path / 'folders')
    assert issues_of(class_folders(tmp_path / 'folders')) == []


@pytest.mark.parametrize(
    ('change', 'category', 'text'),
    [
        (first(category_id=99), 'unknown categories', 'annotation 1: there is no 99'),
        (first(image_id=99), 'unknown images', 'annotation 1: there is no 99'),
        (first(bbox=[1, 2, 3]), 'wrong fields', r'annotations\[0\]: .* length 4.*bbox'),
        (
            first(bbox=[1, 2, 3, float('nan')]),
            'wrong fields',
            r'annotations\[0\]: Out of range float',
        ),
        (first('images', width='126'), 'wrong fields', r'images\[0\]: .*`str`.*width'),
        (first('categories', id=None), 'wrong fields', r'categories\[0\]: .*null.*id'),
        (remove('annotations', 0, 'area'), 'wrong fields', r'annotations\[0\]: .*missing .*area'),
        (
            lambda c: c['annotations'].append(5),
            'wrong fields',
            r'annotations\[2\]: Expected `object`, got `int`',
        ),
        (first(id=2), 'used twice', r'annotations\[1\]: id 2'),
        (lambda c: c.update(annotations=[]), 'an empty list', 'no annotations'),
        (remove('annotations', None), 'an empty list', 'no annotations'),
        (lambda c: c.update(images=[]), 'without an image', ''),
        (
            remove('categories', 3),
            'without a category',
            'train2017.json: motorcycle; the categories are person',
        ),
        (first('images', width=300), 'images of another size', '1.jpg: .*300[)]$'),
        (first('images', width=97, height=126), 'another size', '1.jpg: .*turned by 90 degrees'),
        (mask([]), 'without the mask', 'annotation 1 of'),
        (mask('abc'), 'neither polygons', 'annotation 1 of .*: Expected .*, got `str`'),
        (mask([1, 1, 5, 1, 5, 5]), 'neither polygons', 'annotation 1 of .*: Expected `array`, got'),
        (mask([[float('nan'), 1, 5, 1, 5, 5]]), 'wrong fields', r'annotations\[0\]: Out of range'),
        (
            mask(dict(size=[9, 9], counts=[81])),
            'annotations that cannot be loaded',
            '1.jpg: ValueError',
        ),
        (rle([-1, 97 * 126 + 1]), 'annotations that cannot be loaded', '1.jpg: OverflowError'),
        # The whole image, and then a number that is broken off.
        (rle('0nm;P'), 'annotations that cannot be loaded', '1.jpg: ValueError: Invalid RLE'),
    ],
)
def test_errors_in_cocos_json_are_named(
    change: Change, category: str, text: str, tmp_path: Path
) -> None:
    write_coco(tmp_path, change)
    assert_found(issues_of(coco(tmp_path)), category, text)


@pytest.mark.parametrize(
    ('change', 'category', 'text'),
    [
        (first(bbox=[1, 1, 20, 0]), 'no area', r'annotation 1 of .*20, 0\]'),
        (first(area=0), 'no area', 'annotation 1 of .*area 0'),
        (first(bbox=[126, 1, 20, 20]), 'wholly outside', 'annotation 1 of .*126 x 97'),
        (first(bbox=[100, 1, 40, 20]), 'stick out', 'annotation 1 of .*100.*126 x 97'),
        (first(bbox=[-5, 1, 40, 20]), 'stick out', 'annotation 1 of .*-5'),
        (first(iscrowd=1), 'ignore or iscrowd', 'annotation 1 of'),
        (remove('annotations', 0), 'left out by filter_cfg', 'image 1, 000000000001.jpg'),
        (first('categories', name='yak'), 'other categories', "annotation 1: 'yak'"),
    ],
)
def test_what_mmdet_leaves_out_or_takes_as_it_is_is_a_warning(
    change: Change, category: str, text: str, tmp_path: Path
) -> None:
    write_coco(tmp_path, change)
    issues = issues_of(coco(tmp_path, filter_cfg=dict(filter_empty_gt=True)))
    assert_found(issues, category, text, warning=True)
    # Without the yak's name, a class is missing.
    assert report_issues(dict(train=issues)) == ('yak' in text)


def test_wrong_entries_hide_no_mistake_and_cause_none(tmp_path: Path) -> None:
    def damage(content: dict) -> None:
        content['images'][0].update(width=None)
        content['annotations'][0].update(area=None)
        content['annotations'].append(dict(content['annotations'][-1], id=50, category_id=99))

    write_coco(tmp_path, damage)
    path = tmp_path / JSON
    category = 'entries with missing or wrong fields'
    assert issues_of(coco(tmp_path)) == [
        Issue(category, f'{path}: images[0]', 'Expected `int | float`, got `null` - at `$.width`'),
        Issue(
            category, f'{path}: annotations[0]', 'Expected `int | float`, got `null` - at `$.area`'
        ),
        Issue('annotations of unknown categories', f'{path}: annotation 50', 'there is no 99'),
    ]


def test_what_is_right_is_not_called_a_mistake(tmp_path: Path) -> None:
    write_coco(tmp_path / 'secret', lambda content: content.pop('annotations'))
    assert issues_of(coco(tmp_path / 'secret', test_mode=True)) == []
    write_coco(tmp_path / 'rounded', first(bbox=[100, 1, 26.7, 20]))
    assert issues_of(coco(tmp_path / 'rounded')) == []


@pytest.mark.parametrize('content', ['', '{"images": [', '[]', '{"images": 7}'])
def test_files_that_are_not_cocos_are_named(content: str, tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / JSON).write_text(content)
    assert_found(issues_of(coco(tmp_path)), 'cannot be loaded', f'{JSON}: ')


def test_data_sets_of_other_forms_are_checked(tmp_path: Path) -> None:
    entries = [dict(img_path='no.jpg', instances=[dict(text='a sign'), dict(bbox_label=9)])]
    (tmp_path / 'list.json').write_text(
        json.dumps(dict(metainfo=dict(classes='ab'), data_list=entries))
    )
    dataset = dict(_scope_='mmpretrain', type='BaseDataset', data_root=str(tmp_path))
    dataset.update(ann_file='list.json', pipeline=[LOAD, PACK])
    issues = issues_of(dataset)
    assert [issue.category for issue in issues] == ['labels out of range', 'missing images']

    # Each task has a label of its own.
    entries[0].update(gt_label=dict(kind=1, colour=2))
    (tmp_path / 'list.json').write_text(json.dumps(dict(data_list=entries)))
    issues = issues_of({**dataset, 'type': 'MultiTaskDataset'})
    assert [issue.category for issue in issues] == ['missing images']

    (tmp_path / 'list.txt').write_text('')
    issues = issues_of(class_folders(tmp_path, ann_file='list.txt'))
    assert_found(issues, 'without an image', '')


def change_map(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda path: cv2.imwrite(str(path), function(cv2.imread(str(path), -1)))


@pytest.mark.parametrize(
    ('damage', 'category', 'text'),
    [
        (Path.unlink, 'missing label maps', '1.png$'),
        (cut, 'label maps that cannot be loaded', '1.png'),
        (change_map(lambda m: m[:-1]), 'another size', r'1.png: \(74, 98\), its image \(75, 98\)'),
        (change_map(lambda m: m * 2), 'out of range', '1.png: 2, of 2 classes'),
        (change_map(lambda m: m + 254), 'out of range', '1.png: 254, of 2 classes'),
        # That would be 0 in the 8 bits that mmseg makes of it.
        (change_map(lambda m: m.astype(np.uint16) * 256), 'out of range', '1.png: 256, of 2'),
        (change_map(lambda m: np.stack([m] * 3, -1)), 'several channels', '1.png: 3'),
    ],
)
def test_broken_label_maps_are_named(
    damage: Callable[[Path], object], category: str, text: str, tmp_path: Path
) -> None:
    make_label_maps(tmp_path)
    path = tmp_path / 'ann/1.png'
    if damage is cut:  # a flat map is too small to lose 200 bytes
        cv2.imwrite(str(path), np.random.RandomState(0).randint(0, 2, (75, 98), np.uint8))
    damage(path)
    (issue,) = issues_of(label_maps(tmp_path))
    assert_found([issue], category, text)


def test_a_label_is_in_range_by_head_reduce_zero_label_and_chosen_classes(tmp_path: Path) -> None:
    make_label_maps(tmp_path)
    for path in (tmp_path / 'ann').iterdir():
        change_map(lambda m: np.where(m, 2, 255))(path)
    three = dict(classes=('a', 'b', 'c'), palette=[[0, 0, 0]] * 3)
    assert issues_of(label_maps(tmp_path, metainfo=three)) == []
    assert len(issues_of(label_maps(tmp_path))) == 4
    reduced = label_maps(tmp_path, reduce_zero_label=True)
    assert issues_of(reduced) == []
    # 255 counts where another number is the ignored one.
    other = nn.ModuleDict(dict(decode_head=Head(3, ignore_index=9)))
    assert len(issues_of(label_maps(tmp_path, metainfo=three), other)) == 4
    # Of chosen classes, those that are not chosen are in range too.
    chosen = dict(type='CityscapesDataset', metainfo=dict(classes=('road',)), img_suffix='.jpg')
    dataset = label_maps(tmp_path, seg_map_suffix='.png', **chosen)
    change_map(lambda m: m // 255 * 18)(tmp_path / 'ann/0.png')
    assert issues_of(dataset) == []
    change_map(lambda m: np.minimum(m, 1) * 19)(tmp_path / 'ann/0.png')
    assert_found(issues_of(dataset), 'out of range', '0.png: 19')


def test_several_processes_find_the_same_and_a_killed_one_ends_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_class_folders(tmp_path, images=70)
    (tmp_path / 'train/n01440764/7.JPEG').write_bytes(b'no image')
    cut(tmp_path / 'train/n01443537/69.JPEG')
    alone = issues_of(class_folders(tmp_path))
    assert len(alone) == 2
    assert issues_of(class_folders(tmp_path), workers=2) == alone
    monkeypatch.setattr(_Samples, '__getitem__', lambda self, index: os.kill(os.getpid(), 9))
    with pytest.raises(UserError, match=r'train_dataloader\.dataset: the check was stopped'):
        issues_of(class_folders(tmp_path), workers=2)


def test_a_report_names_twenty_of_a_category_and_one_warning(
    capsys: pytest.CaptureFixture,
) -> None:
    errors = [Issue('missing images', f'{i}.jpg') for i in range(23)]
    warnings = [Issue('boxes of no area', f'box {i}', 'tiny', True) for i in range(5)]
    assert report_issues({'train': errors + warnings}) == 23
    lines = capsys.readouterr().err.splitlines()
    named = [f'    {i}.jpg' for i in range(20)]
    assert lines[:22] == ['train: 23 missing images:', *named, '    ... and 3 more']
    assert lines[22:] == ['train: warning: 5 boxes of no area, e.g. box 0: tiny']


def test_command_lines_name_mistakes_and_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    make_coco(tmp_path / 'data/coco', images=2)
    config = write_detector(tmp_path)
    assert run_tool(monkeypatch, 'check_dataset.py', config) is None
    keys = ['train_dataloader.dataset', 'val_dataloader.dataset']
    assert f'no mistakes found in {", ".join(keys)}' in capsys.readouterr().out
    torch.save(dict(state_dict=build_model(load_config(str(config))).state_dict()), 'w.pth')
    for tool in (['train.py', config], ['test.py', config, 'w.pth']):
        assert run_tool(monkeypatch, *tool, '--check-only') is None
        told = capsys.readouterr()
        assert told.out.splitlines()[-1] == f'no mistakes found in {config}'
        assert 'classes without a sample' in told.err
    path = 'data/coco/val2017/000000000002.jpg'
    cut(tmp_path / path)
    message = run_tool(monkeypatch, 'check_dataset.py', config, '--json', 'found.json')
    assert message.startswith(f'check_dataset.py: error: mistakes in the data of {config}: 1,')
    found = json.loads((tmp_path / 'found.json').read_text())
    issue, unused = found[keys[1]]
    assert issue['category'] == 'images that cannot be loaded'
    assert (issue['location'], issue['warning']) == (path, False)
    assert found[keys[0]] == [unused] and unused['category'] == 'classes without a sample'
    assert run_tool(monkeypatch, 'check_dataset.py', config, '--split', 'train') is None

    assert path in str(run_tool(monkeypatch, 'train.py', config, '--check-only'))
    message = run_tool(monkeypatch, 'train.py', config, '--check-data')
    assert message.startswith('train.py: error: --check-data: mistakes in the data: 1,')
    assert path in capsys.readouterr().err
    assert not (tmp_path / 'work_dirs').exists()
    message = run_tool(monkeypatch, 'train.py', config, '--check-data', '--launcher', 'pytorch')
    assert 'is for one process' in str(message)
