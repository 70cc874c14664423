"""Every damage to a data set is found and named; what training skips is a warning."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmcontnet.engine import UserError, find_faults, report_faults
from mmcontnet.engine.datasets import Fault, _Samples

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
        (change_first(bbox=[100, 1, 40, 20]), 'stick out', 'annotation 1 of .*x 100.*126 x 97'),
        (change_first(bbox=[-5, 1, 40, 20]), 'stick out', 'annotation 1 of .*x -5'),
        (change_first(bbox=[1, 2, 3]), 'four numbers', r'annotation 1 of .*\[1, 2, 3\]'),
        (change_first(bbox=[1, 2, 3, float('nan')]), 'four numbers', 'annotation 1 of .*nan'),
        (change_first(segmentation=[]), 'without the mask', 'annotation 1 of'),
        (
            change_first(segmentation=dict(size=[9, 9], counts=[81])),
            'masks of another size',
            r'annotation 1 of .*size \[9, 9\] in an image of 97 x 126',
        ),
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
    assert_found(faults_of(coco(tmp_path)), kind, place, skipped=False)


def assert_found(faults: list[Fault], kind: str, place: str, skipped: bool) -> None:
    named = [fault for fault in faults if kind in fault.kind and re.search(place, fault.place)]
    assert len(named) == 1, faults
    assert named[0].skipped is skipped


@pytest.mark.parametrize(
    ('change', 'kind', 'place'),
    [
        (change_first(bbox=[1, 1, 20, 0]), 'no area', 'annotation 1 of .*height 0'),
        (change_first(area=0), 'no area', 'annotation 1 of .*area 0'),
        (change_first(bbox=[126, 1, 20, 20]), 'wholly outside', 'annotation 1 of .*126 x 97'),
        (change_first(iscrowd=1), 'ignore or iscrowd', 'annotation 1 of'),
        (change_first(segmentation=[[1, 1, 5, 5]]), 'polygons', 'annotation 1 of .*: 4 numbers'),
        (lambda c: c['annotations'].pop(0), 'left out by filter_cfg', 'image 1, 000000000001.jpg'),
        (lambda c: c['categories'][0].update(name='yak'), 'does not name', "annotation 1 .*'yak'"),
    ],
)
def test_what_mmdet_skips_is_a_warning(
    change: Callable[[dict], object], kind: str, place: str, tmp_path: Path
) -> None:
    write_coco(tmp_path, change)
    dataset = coco(tmp_path, filter_cfg=dict(filter_empty_gt=True))
    faults = faults_of(dataset)
    assert_found(faults, kind, place, skipped=True)
    if 'yak' not in place:  # of which a class is missing then, too
        assert report_faults(dict(train=faults)) == 0


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
    assert_found(faults, 'labels out of range', '2.jpg: 17, of 10 classes', skipped=False)


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
    assert_found([fault], kind, place, skipped=False)


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
    assert_found(faults_of(dataset), 'out of range', '0.png: 19', skipped=False)


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


def test_a_report_names_twenty_of_a_kind_and_one_of_what_is_skipped(
    capsys: pytest.CaptureFixture,
) -> None:
    errors = [Fault('missing images', f'{i}.jpg') for i in range(23)]
    skipped = [Fault('boxes of no area', f'box {i}', skipped=True) for i in range(5)]
    assert report_faults({'train': errors + skipped}) == 23
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
    fault = dict(kind='missing images', place=place, skipped=False)
    assert found == {'train_dataloader.dataset': [], 'val_dataloader.dataset': [fault]}
    assert run_tool(monkeypatch, 'check_dataset.py', config, '--split', 'train') is None


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
