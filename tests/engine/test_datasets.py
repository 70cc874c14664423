"""Every damage to a data set is found and named; what training goes on with is a warning."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from pycocotools import mask as coco_mask

from mmcontnet.engine import find_faults, report_faults
from mmcontnet.engine.datasets import Fault, _Samples
from mmcontnet.errors import UserError

from ..inprocess import run_tool
from ..integration.configs import write_detector
from ..integration.data import make_class_folders, make_coco, make_label_maps

LOAD = dict(type='LoadImageFromFile')


def coco(root: Path, **changes: object) -> dict:
    dataset = dict(
        _scope_='mmdet',
        type='CocoDataset',
        data_root=str(root),
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        pipeline=[LOAD, dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
    )
    return {**dataset, **changes}


def label_maps(root: Path, **changes: object) -> dict:
    dataset = dict(
        _scope_='mmseg',
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        metainfo=dict(classes=('ground', 'thing'), palette=[[0, 0, 0], [255, 0, 0]]),
        pipeline=[LOAD, dict(type='LoadAnnotations')],
    )
    return {**dataset, **changes}


def class_folders(root: Path, **changes: object) -> dict:
    dataset = dict(
        _scope_='mmpretrain',
        type='CustomDataset',
        data_root=str(root),
        data_prefix='train',
        extensions=('.jpeg',),
        pipeline=[LOAD],
    )
    return {**dataset, **changes}


def faults_of(dataset: dict, model: dict | None = None, workers: int = 0) -> list[Fault]:
    loaders = dict(train_dataloader=dict(dataset=dataset), val_dataloader=dict(dataset=dataset))
    (faults,) = find_faults(
        Config(dict(model=model or {}, **loaders)), ['train', 'val'], workers
    ).values()
    return faults


def write_coco(root: Path, change: Callable[[dict], object] = lambda content: None) -> None:
    """Write two images with a triangle for a mask each, after a change of the JSON."""
    make_coco(root, images=2)
    path = root / 'annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        x, y, w, h = annotation['bbox']
        annotation['segmentation'] = [[x, y, x + w, y, x, y + h]]
    change(content)
    path.write_text(json.dumps(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def change_first(**fields: object) -> Callable[[dict], object]:
    return lambda content: content['annotations'][0].update(fields)


def rle(counts: object) -> Callable[[dict], object]:
    return change_first(segmentation=dict(size=[97, 126], counts=counts))


def test_whole_data_sets_have_no_fault(tmp_path: Path) -> None:
    write_coco(tmp_path / 'coco')
    make_label_maps(tmp_path / 'labels')
    make_class_folders(tmp_path / 'folders')
    assert faults_of(coco(tmp_path / 'coco')) == []
    assert faults_of(label_maps(tmp_path / 'labels')) == []
    assert faults_of(class_folders(tmp_path / 'folders')) == []


@pytest.mark.parametrize(
    ('change', 'kind', 'place'),
    [
        (
            change_first(category_id=99),
            'unknown categories',
            'annotation 1 of .*1.jpg: category 99',
        ),
        (change_first(image_id=99), 'unknown images', 'annotation 1: image 99'),
        (change_first(bbox=[1, 2, 3]), 'four numbers', r'annotation 1 of .*\[1, 2, 3\]'),
        (change_first(bbox=[1, 2, 3, float('nan')]), 'four numbers', 'annotation 1 of .*nan'),
        (change_first(bbox=None), 'four numbers', 'annotation 1 of .*None'),
        (change_first(bbox=5), 'four numbers', 'annotation 1 of .*: 5'),
        (change_first(segmentation=[]), 'without the mask', 'annotation 1 of'),
        (
            change_first(segmentation=dict(size=[9, 9], counts=[81])),
            'masks of another size',
            r'annotation 1 of .*size \[9, 9\] in an image of 97 x 126',
        ),
        (change_first(segmentation='abc'), 'neither polygons nor RLE', 'annotation 1 of .*: abc'),
        (change_first(segmentation=[1, 1, 5, 1, 5, 5]), 'neither polygons', r'1 of .*: \[1, 1, 5'),
        (change_first(segmentation=[[float('nan'), 1, 5, 1, 5, 5]]), 'finite', 'annotation 1 of'),
        (change_first(segmentation=[['1', '1', '5', '1', '5', '5']]), 'finite', 'annotation 1 of'),
        (
            change_first(segmentation=[[200, 1, 205, 1, 205, 5]]),
            'wholly outside',
            '1 of .*97 x 126',
        ),
        (change_first(segmentation=[[1, -9, 5, -9, 5, -2]]), 'wholly outside', 'annotation 1 of'),
        (rle([5, 6]), 'do not sum up', 'annotation 1 of'),
        (rle([-1, 97 * 126 + 1]), 'do not sum up', 'annotation 1 of'),
        (rle('zzz!!'), 'do not sum up', 'annotation 1 of'),
        (rle('0'), 'do not sum up', 'annotation 1 of'),
        # The whole image, and then a number that is broken off.
        (rle('0nm;P'), 'do not sum up', 'annotation 1 of'),
        (change_first(area=None), 'wrong kind', r'annotations\[0\]: area None'),
        (change_first(area='7'), 'wrong kind', r"annotations\[0\]: area '7'"),
        (change_first(area=float('nan')), 'wrong kind', r'annotations\[0\]: area nan'),
        (change_first(id=None), 'wrong kind', r'annotations\[0\]: id None'),
        (change_first(category_id=[1]), 'wrong kind', r'annotations\[0\]: category_id \[1\]'),
        (lambda c: c['images'][1].update(width='126'), 'wrong kind', r"images\[1\]: width '126'"),
        (lambda c: c['images'][1].update(file_name=None), 'wrong kind', r'images\[1\]: file_name'),
        (lambda c: c['categories'][3].update(id=None), 'wrong kind', r'categories\[3\]: id None'),
        (lambda c: c['annotations'].append(5), 'no objects', r'annotations\[\d+\]: 5'),
        (
            lambda c: c['annotations'][0].pop('area'),
            'lack a field',
            r'annotations\[0\] has no area',
        ),
        (lambda c: c['images'][1].pop('width'), 'lack a field', r'images\[1\] has no width'),
        (change_first(id=2), 'used more than once', 'annotations: id 2, 2 times'),
        (lambda c: c.update(annotations=[]), 'an empty list', 'no annotations'),
        (lambda c: c.pop('annotations'), 'an empty list', 'no annotations'),
        (lambda c: c.update(images=[]), 'without an image', 'train_dataloader.dataset'),
        (lambda c: c['categories'].pop(3), 'no category for', "train2017.json: 'motorcycle'"),
        (lambda c: c['images'][0].update(width=300), 'images of another size', '1.jpg: .*300'),
    ],
)
def test_errors_in_cocos_json_are_named(
    change: Callable[[dict], object], kind: str, place: str, tmp_path: Path
) -> None:
    write_coco(tmp_path, change)
    assert_found(faults_of(coco(tmp_path)), kind, place, warning=False)


def assert_found(faults: list[Fault], kind: str, place: str, warning: bool) -> None:
    named = [fault for fault in faults if kind in fault.kind and re.search(place, fault.place)]
    assert len(named) == 1, faults
    assert named[0].warning is warning


@pytest.mark.parametrize(
    ('change', 'kind', 'place'),
    [
        (change_first(bbox=[1, 1, 20, 0]), 'no area', 'annotation 1 of .*height 0'),
        (change_first(area=0), 'no area', 'annotation 1 of .*area 0'),
        (change_first(bbox=[126, 1, 20, 20]), 'wholly outside', 'annotation 1 of .*126 x 97'),
        (change_first(bbox=[100, 1, 40, 20]), 'stick out', 'annotation 1 of .*x 100.*126 x 97'),
        (change_first(bbox=[-5, 1, 40, 20]), 'stick out', 'annotation 1 of .*x -5'),
        (rle(None), 'without counts or size', 'annotation 1 of'),
        (change_first(iscrowd=1), 'ignore or iscrowd', 'annotation 1 of'),
        (change_first(segmentation=[[1, 1, 5, 5]]), 'polygons', 'annotation 1 of .*: 4 numbers'),
        (lambda c: c['annotations'].pop(0), 'left out by filter_cfg', 'image 1, 000000000001.jpg'),
        (lambda c: c['categories'][0].update(name='yak'), 'does not name', "annotation 1 .*'yak'"),
    ],
)
def test_what_mmdet_skips_or_takes_as_it_is_is_a_warning(
    change: Callable[[dict], object], kind: str, place: str, tmp_path: Path
) -> None:
    write_coco(tmp_path, change)
    dataset = coco(tmp_path, filter_cfg=dict(filter_empty_gt=True))
    faults = faults_of(dataset)
    assert_found(faults, kind, place, warning=True)
    if 'yak' not in place:  # of which a class is missing then, too
        assert report_faults(dict(train=faults)) == 0


def test_runs_that_sum_up_to_the_size_are_no_fault(tmp_path: Path) -> None:
    mask = np.random.RandomState(0).randint(0, 2, (97, 126)).astype(np.uint8, order='F')
    counts = coco_mask.encode(mask)['counts'].decode()
    for whole in (counts, [5, 97 * 126 - 5]):
        write_coco(tmp_path / str(len(whole)), rle(whole))
        assert faults_of(coco(tmp_path / str(len(whole)))) == []


def test_a_broken_entry_hides_no_fault_and_causes_but_one(tmp_path: Path) -> None:
    def damage(content: dict) -> None:
        content['images'][0].update(width=None)
        content['categories'][3].update(id=[4])
        content['annotations'][0].update(area=None)
        content['annotations'].append(dict(content['annotations'][-1], id=50, category_id=99))

    write_coco(tmp_path, damage)
    kind = 'entries with a field of a wrong kind'
    path = tmp_path / 'annotations/instances_train2017.json'
    unknown = f'{path}: annotation 50 of 000000000002.jpg: category 99'
    assert faults_of(coco(tmp_path)) == [
        Fault(kind, f'{path}: images[0]: width None'),
        Fault(kind, f'{path}: categories[3]: id [4]'),
        Fault(kind, f'{path}: annotations[0]: area None'),
        Fault('annotations of unknown categories', unknown),
        Fault('data sets that cannot be loaded, nor their images', f'{path}: see above'),
    ]


def test_a_test_set_may_keep_its_annotations_secret(tmp_path: Path) -> None:
    write_coco(tmp_path, lambda content: content.pop('annotations'))
    assert faults_of(coco(tmp_path, test_mode=True)) == []


@pytest.mark.parametrize('test_mode', [False, True])
def test_an_image_that_ignore_empty_drops_is_a_warning_in_training(
    test_mode: bool, tmp_path: Path
) -> None:
    write_coco(tmp_path)
    (tmp_path / 'train2017/000000000001.jpg').unlink()
    pipeline = [dict(LOAD, ignore_empty=True)]
    faults = faults_of(coco(tmp_path, pipeline=pipeline, test_mode=test_mode))
    assert_found(faults, 'ignore_empty', '/000000000001.jpg', warning=not test_mode)


def test_instances_without_a_label_are_no_fault(tmp_path: Path) -> None:
    instances = [dict(text='a sign'), dict(bbox_label=9)]
    data = dict(metainfo={}, data_list=[dict(img_path='no.jpg', instances=instances)])
    (tmp_path / 'list.json').write_text(json.dumps(data))
    dataset = dict(type='BaseDataset', data_root=str(tmp_path), ann_file='list.json')
    faults = faults_of(dict(dataset, _scope_='mmpretrain'), dict(head=dict(num_classes=2)))
    assert [fault.kind for fault in faults] == ['missing images', 'labels out of range']


def test_a_data_set_of_several_tasks_is_looked_at(tmp_path: Path) -> None:
    make_class_folders(tmp_path, images=1)
    paths = ['train/n01440764/0.JPEG', 'train/no.JPEG']
    entries = [dict(img_path=path, gt_label=dict(kind=0)) for path in paths]
    content = dict(metainfo=dict(tasks=['kind']), data_list=entries)
    (tmp_path / 'list.json').write_text(json.dumps(content))
    dataset = class_folders(tmp_path, type='MultiTaskDataset', ann_file='list.json')
    faults = faults_of({k: v for k, v in dataset.items() if k not in ('extensions', 'data_prefix')})
    assert faults == [Fault('missing images', str(tmp_path / 'train/no.JPEG'))]


def test_a_box_out_by_rounding_is_no_fault(tmp_path: Path) -> None:
    write_coco(tmp_path, change_first(bbox=[100, 1, 26.7, 20]))
    assert faults_of(coco(tmp_path)) == []


@pytest.mark.parametrize('content', ['', '{"images": [', '[]', '{"images": 7}'])
def test_annotation_files_that_are_no_cocos_are_named(content: str, tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / 'annotations/instances_train2017.json').write_text(content)
    faults = faults_of(coco(tmp_path))
    assert_found(faults, 'cannot be loaded', 'annotations/instances_train2017.json: ', False)


def test_more_classes_in_the_data_than_in_the_head_are_named(tmp_path: Path) -> None:
    write_coco(tmp_path)
    roi_head = dict(bbox_head=[dict(num_classes=10)])
    faults = faults_of(coco(tmp_path), dict(roi_head=roi_head))
    assert_found(faults, 'labels out of range', '2.jpg: 17, of 10 classes', warning=False)


@pytest.mark.parametrize('damage', [Path.unlink, cut, lambda path: path.write_bytes(b'')])
@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_missing_truncated_and_empty_images_are_named(
    damage: Callable[[Path], object], suffix: str, tmp_path: Path
) -> None:
    make_label_maps(tmp_path)
    for path in sorted((tmp_path / 'img').iterdir()):
        cv2.imwrite(str(path.with_suffix(suffix)), cv2.imread(str(path)))
    (tmp_path / 'names.txt').write_text('0\n1\n')
    damage(tmp_path / f'img/1{suffix}')
    faults = faults_of(label_maps(tmp_path, img_suffix=suffix, ann_file='names.txt'))
    kind = 'missing images' if damage is Path.unlink else 'images that cannot be decoded'
    assert faults == [Fault(kind, str(tmp_path / f'img/1{suffix}'))]


def change_map(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda path: cv2.imwrite(str(path), function(cv2.imread(str(path), -1)))


@pytest.mark.parametrize(
    ('damage', 'kind', 'place'),
    [
        (Path.unlink, 'missing label maps', '1.png$'),
        (cut, 'label maps that cannot be decoded', '1.png$'),
        (change_map(lambda m: m[:-1]), 'another size', r'1.png: \(74, 98\), its image \(75, 98\)'),
        (change_map(lambda m: m * 2), 'out of range', '1.png: 2, of 2 classes'),
        (change_map(lambda m: m + 254), 'out of range', '1.png: 254, of 2 classes'),
        # That would be 0 in the 8 bits that mmseg makes of it.
        (change_map(lambda m: m.astype(np.uint16) * 256), 'out of range', '1.png: 256, of 2'),
        (change_map(lambda m: np.stack([m] * 3, -1)), 'several channels', '1.png: 3'),
    ],
)
def test_broken_label_maps_are_named(
    damage: Callable[[Path], object], kind: str, place: str, tmp_path: Path
) -> None:
    make_label_maps(tmp_path)
    path = tmp_path / 'ann/1.png'
    if damage is cut:  # a flat map is too small to lose 200 bytes
        cv2.imwrite(str(path), np.random.RandomState(0).randint(0, 2, (75, 98), np.uint8))
    damage(path)
    (fault,) = faults_of(label_maps(tmp_path))
    assert_found([fault], kind, place, warning=False)


def test_a_label_is_in_range_by_the_head_and_by_reduce_zero_label(tmp_path: Path) -> None:
    make_label_maps(tmp_path)
    for path in (tmp_path / 'ann').iterdir():
        change_map(lambda m: np.where(m, 2, 255))(path)
    three = dict(decode_head=dict(num_classes=3))
    assert faults_of(label_maps(tmp_path), three) == []
    assert len(faults_of(label_maps(tmp_path))) == 4
    reduced = label_maps(tmp_path, reduce_zero_label=True)
    assert faults_of(reduced) == []
    assert len(faults_of(reduced, dict(decode_head=[dict(num_classes=1)]))) == 4
    # 255 counts where another number is the ignored one.
    assert len(faults_of(label_maps(tmp_path), dict(decode_head=dict(three, ignore_index=9)))) == 4


def test_of_classes_that_a_config_chooses_the_other_labels_are_in_range(tmp_path: Path) -> None:
    make_label_maps(tmp_path)
    changes = dict(type='CityscapesDataset', metainfo=dict(classes=('road',)), img_suffix='.jpg')
    dataset = label_maps(tmp_path, seg_map_suffix='.png', **changes)
    change_map(lambda m: m * 18)(tmp_path / 'ann/0.png')
    assert faults_of(dataset) == []
    change_map(lambda m: np.minimum(m, 1) * 19)(tmp_path / 'ann/0.png')
    assert_found(faults_of(dataset), 'out of range', '0.png: 19', warning=False)


def test_classes_of_folders_beyond_the_heads_are_named(tmp_path: Path) -> None:
    make_class_folders(tmp_path, images=1)
    faults = faults_of(class_folders(tmp_path), dict(head=dict(num_classes=1)))
    assert_found(faults, 'labels out of range', '/n01443537/0.JPEG: 1, of 1 classes', False)


def test_an_empty_annotation_file_of_a_classifier_is_named(tmp_path: Path) -> None:
    make_class_folders(tmp_path, images=1)
    (tmp_path / 'list.txt').write_text('')
    faults = faults_of(class_folders(tmp_path, ann_file='list.txt'))
    assert_found(faults, 'without an image', 'train_dataloader.dataset', False)


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    make_class_folders(tmp_path, images=70)
    (tmp_path / 'train/n01440764/7.JPEG').write_bytes(b'no image')
    cut(tmp_path / 'train/n01443537/69.JPEG')
    alone = faults_of(class_folders(tmp_path))
    assert len(alone) == 2
    assert faults_of(class_folders(tmp_path), workers=2) == alone


def test_a_killed_process_ends_the_check_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_class_folders(tmp_path, images=64)
    monkeypatch.setattr(_Samples, '__getitem__', lambda self, index: os.kill(os.getpid(), 9))
    with pytest.raises(UserError, match=r'train_dataloader\.dataset: the check was stopped'):
        faults_of(class_folders(tmp_path), workers=2)


def test_a_report_names_twenty_of_a_kind_and_one_of_warnings(
    capsys: pytest.CaptureFixture,
) -> None:
    errors = [Fault('missing images', f'{i}.jpg') for i in range(23)]
    warnings = [Fault('boxes of no area', f'box {i}', warning=True) for i in range(5)]
    assert report_faults({'train': errors + warnings}) == 23
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == 'train: 23 missing images:'
    assert [line.strip() for line in lines[1:21]] == [f'{i}.jpg' for i in range(20)]
    assert lines[21].strip() == '... and 3 more'
    assert lines[22:] == ['train: warning: 5 boxes of no area, e.g. box 0']


def test_the_command_line_names_faults_and_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    make_coco(tmp_path / 'data/coco', images=2)
    config = write_detector(tmp_path)
    assert run_tool(monkeypatch, 'check_dataset.py', config) is None
    assert (
        'no faults in train_dataloader.dataset, val_dataloader.dataset' in capsys.readouterr().out
    )
    (tmp_path / 'data/coco/val2017/000000000002.jpg').unlink()
    message = run_tool(monkeypatch, 'check_dataset.py', config, '--json', 'faults.json')
    assert message == f'check_dataset.py: error: faults in the data of {config}: 1'
    found = json.loads((tmp_path / 'faults.json').read_text())
    place = 'data/coco/val2017/000000000002.jpg'
    fault = dict(kind='missing images', place=place, warning=False)
    assert found == {'train_dataloader.dataset': [], 'val_dataloader.dataset': [fault]}
    assert run_tool(monkeypatch, 'check_dataset.py', config, '--split', 'train') is None


def test_as_many_processes_decode_as_there_are_cores_to_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(37)))
    run_tool(monkeypatch, 'check_dataset.py', '--help')
    assert 'decode (default: 37)' in capsys.readouterr().out


def test_training_checks_the_data_before_anything_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    make_coco(tmp_path / 'data/coco', images=2)
    config = write_detector(tmp_path)
    cut(tmp_path / 'data/coco/train2017/000000000001.jpg')
    assert run_tool(monkeypatch, 'train.py', config, '--check-only') is None
    message = run_tool(monkeypatch, 'train.py', config, '--check-data')
    assert message == 'train.py: error: --check-data: faults in the data: 1'
    assert 'data/coco/train2017/000000000001.jpg' in capsys.readouterr().err
    assert not (tmp_path / 'work_dirs').exists()
    message = run_tool(monkeypatch, 'train.py', config, '--check-data', '--launcher', 'pytorch')
    assert 'is for one process' in str(message)
