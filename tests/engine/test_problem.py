"""Before every run: model, data sets, evaluators and checkpoints are about the same problem."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, MODELS
from torch import nn

from mmcontnet.builders import build_model, leaf_datasets
from mmcontnet.engine import check_problem, import_datasets, load_config
from mmcontnet.engine.coco import CocoFile, read_coco
from mmcontnet.engine.datasets import _build
from mmcontnet.engine.needs import Data, head_issues, metric_issues, pipeline_issues
from mmcontnet.errors import UserError

from ..integration.cli import ROOT
from .test_datasets import Head
from .test_datasets import label_maps as label_map_config

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='mmdet.PackDetInputs')
PACK_MAPS, PACK_CLASSES = dict(type='mmseg.PackSegInputs'), dict(type='mmpretrain.PackInputs')


def write_json(path: Path, offset: int = 0, change: Callable[[dict], object] | None = None) -> None:
    """Write twelve images of 60 x 40 with a box each, cats and dogs in turn; images exist."""
    images = [dict(id=i, file_name=f'{i + offset}.png', width=60, height=40) for i in range(12)]
    annotations = [
        dict(id=i, image_id=i, category_id=i % 2, bbox=[5, 5, 20, 10], area=200, iscrowd=0)
        for i in range(12)
    ]
    categories = [dict(id=0, name='cat'), dict(id=1, name='dog')]
    content = dict(images=images, annotations=annotations, categories=categories)
    if change:
        change(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for image in content['images']:
        cv2.imwrite(str(path.parent / image['file_name']), np.zeros((40, 60, 3), np.uint8))


def coco(ann_file: Path, classes: tuple[str, ...] = ('cat', 'dog'), **changes: object) -> dict:
    dataset = dict(_scope_='mmdet', type='CocoDataset', ann_file=str(ann_file))
    dataset.update(metainfo=dict(classes=classes), data_prefix=dict(img=str(ann_file.parent)))
    pipeline = [LOAD, dict(type='LoadAnnotations', with_bbox=True), PACK]
    return {**dataset, 'pipeline': pipeline, **changes}


def check(
    train: dict,
    val: dict | None = None,
    model: nn.Module | None = None,
    checkpoint: Path | None = None,
    **others: object,
) -> list[str]:
    cfg = dict(train_dataloader=dict(dataset=train), **others)
    if val is not None:
        cfg['val_dataloader'] = dict(dataset=val)
    return check_problem(Config(cfg), model or nn.Module(), ['train', 'val'], checkpoint)


def both(folder: Path, change: Callable[[dict], object] | None = None) -> tuple[Path, Path]:
    write_json(folder / 'train.json', change=change)
    write_json(folder / 'val.json', offset=100)
    return folder / 'train.json', folder / 'val.json'


def test_data_sets_that_agree_have_no_issue(tmp_path: Path) -> None:
    train, val = both(tmp_path)

    class GARPNHead(Head):  # of a network that finds objects of any class
        pass

    heads = nn.ModuleDict(dict(bbox_head=Head(2), rpn_head=Head(1), backbone=Head(-1)))
    heads.update(dict(auxiliary_head=GARPNHead(1)))
    assert check(coco(train), coco(val), heads, val_evaluator=dict(ann_file=str(val))) == []


def set_each(field: str, value: object) -> Callable[[dict], object]:
    return lambda content: [a.update({field: value}) for a in content['annotations']]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            set_each('image_id', '3'),
            "12 annotations of unknown images.*there is no '3', but 3, of another type",
        ),
        (set_each('bbox', [0.1, 0.1, 0.5, 0.5]), 'boxes that are parts .*all 12 lie between 0 and'),
        (
            lambda c: c['categories'].reverse(),
            'categories in another order than .*: mmdet numbers them dog, cat',
        ),
        (
            lambda c: [a.update(name=a['name'].upper()) for a in c['categories']],
            'metainfo.classes without a category .*: cat, dog; the categories are CAT, DOG',
        ),
        (
            lambda c: [i.update(width=40, height=60) for i in c['images']],
            '12 images of another size .*turned by 90 degrees',
        ),
        (dict(data_prefix=dict(img='nowhere')), '12 missing images, e.g. .*nowhere/0.png'),
        # And not what follows from it.
        (dict(metainfo=dict(CLASSES=('cat', 'dog'))), '.*metainfo has CLASSES; write classes$'),
        (
            dict(metainfo=dict(classes='cat')),
            r".*metainfo.classes is the text 'cat'; write \('cat',\)$",
        ),
        (
            dict(metainfo=dict(classes=('cat', 'dog'), palette=[(1, 2, 3)])),
            'palettes of too few colours: metainfo.palette: 1 for 2 classes; write palette=None$',
        ),
        (dict(metainfo='cat'), r".*metainfo is 'cat'; write dict\(classes=...\)$"),
    ],
)
def test_contradictions_are_one_line(
    change: Callable[[dict], object] | dict, message: str, tmp_path: Path
) -> None:
    of_config = change if isinstance(change, dict) else {}
    train, _ = both(tmp_path, None if of_config else change)
    with pytest.raises(UserError, match=f'^train_dataloader.dataset: {message}') as raised:
        check(coco(train, **of_config))
    assert '\n' not in str(raised.value)


def test_a_file_of_another_format_is_named_with_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / 'picture.json'
    path.write_text(json.dumps(dict(version='5.0', shapes=[])))
    with pytest.raises(UserError, match='annotations; this file has the keys version, shapes'):
        check(coco(path))


def drop(field: str) -> Callable[[dict], object]:
    return lambda content: [a.pop(field) for a in content['annotations']]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (drop('iscrowd'), 'annotation files without iscrowd, taken as 0: .*: 12 of 12 annotations'),
        (set_each('bbox', [20, 20, 50, 35]), 'boxes that look like corners.*: 12 of 12 end beyond'),
        (set_each('bbox', [0, 0, 60, 40]), 'boxes that cover their whole image: .*: 12 of 12'),
        (set_each('category_id', 1), 'classes without a sample: 1 of 2: cat'),
        (
            lambda c: c['images'].append(dict(c['images'][0], id=99)),
            'images that are listed more than once: .*: 1 of 12, e.g. 0.png',
        ),
    ],
)
def test_what_is_odd_is_a_warning_with_figures(
    change: Callable[[dict], object], message: str, tmp_path: Path
) -> None:
    train, _ = both(tmp_path, change)
    warnings = check(coco(train))
    assert len(warnings) == 1
    assert re.match(f'train_dataloader.dataset: {message}', warnings[0]), warnings


def test_ids_may_be_texts_everywhere(tmp_path: Path) -> None:
    def to_texts(content: dict) -> None:
        for image in content['images']:
            image['id'] = str(image['id'])
        for annotation in content['annotations']:
            annotation['image_id'] = str(annotation['image_id'])

    train, _ = both(tmp_path, to_texts)
    assert check(coco(train)) == []


def test_more_classes_than_a_package_has_colours_can_be_trained(tmp_path: Path) -> None:
    def add_classes(content: dict) -> None:
        content['categories'] += [dict(id=i, name=f'kind{i}') for i in range(2, 100)]

    train, _ = both(tmp_path, add_classes)
    names = ('cat', 'dog', *(f'kind{i}' for i in range(2, 100)))
    assert any('metainfo.palette: 80 for 100 classes' in w for w in check(coco(train, names)))


def drawn(dataset: dict, **draw: object) -> Config:
    hooks = dict(visualization=dict(type='DetVisualizationHook', **draw))
    return Config(dict(test_dataloader=dict(dataset=dataset), default_hooks=hooks))


def test_what_cannot_be_drawn_is_told_before_a_test_draws(tmp_path: Path) -> None:
    def change(content: dict) -> None:
        content['categories'] += [dict(id=i, name=f'kind{i}') for i in range(2, 100)]
        for i, image in enumerate(content['images'][:2]):
            (tmp_path / f'{i}').mkdir(exist_ok=True)
            image['file_name'] = f'{i}/same.png'

    train, _ = both(tmp_path, change)
    names = ('cat', 'dog', *(f'kind{i}' for i in range(2, 100)))
    cfg = drawn(coco(train, names), draw=True, test_out_dir='pictures')
    with pytest.raises(UserError, match='80 for 100 classes; write palette=None$'):
        check_problem(cfg, nn.Module(), ['test'])
    cfg.test_dataloader.dataset.metainfo.palette = None
    several = 'images of the same name in several folders: 1 of 12 pictures will be lost, e.g. of '
    warnings = check_problem(cfg, nn.Module(), ['test'])
    assert any(f'{several}same.png' in warning for warning in warnings)
    not_drawn = drawn(coco(train, names), draw=False)
    assert not any(
        several in warning for warning in check_problem(not_drawn, nn.Module(), ['test'])
    )


def test_heads_have_the_classes_of_the_data_set(tmp_path: Path) -> None:
    train, _ = both(tmp_path)
    heads = nn.ModuleDict(dict(bbox_head=nn.ModuleList([Head(80), Head(2)]), mask_head=Head(3)))
    message = (
        'model.bbox_head.0.num_classes is 80, model.mask_head.num_classes is 3; metainfo.classes '
        'has 2: cat, dog'
    )
    with pytest.raises(UserError, match=message):
        check(coco(train), model=heads)


def test_parts_and_evaluator_are_compared(tmp_path: Path) -> None:
    train, val = both(tmp_path)
    write_json(
        tmp_path / 'three.json', 200, lambda c: c['categories'].append(dict(id=2, name='owl'))
    )
    other = coco(tmp_path / 'three.json', ('cat', 'dog', 'owl'))
    with pytest.raises(UserError, match='cat, dog, owl; train_dataloader.dataset has cat, dog'):
        check(coco(train), other)
    (warning,) = check(coco(train), coco(train, test_mode=True))
    assert 'images that train_dataloader.dataset has too' in warning and ': 12 of 12' in warning
    write_json(
        tmp_path / 'less.json', 100, lambda c: [c[k].pop() for k in ('images', 'annotations')]
    )
    evaluator = dict(type='CocoMetric', ann_file=str(tmp_path / 'less.json'))
    with pytest.raises(UserError, match='not evaluated: val_evaluator.ann_file: 1 of 12 in'):
        check(coco(train), coco(val), val_evaluator=evaluator)


def test_a_file_without_annotations_can_only_be_tested_unscored(tmp_path: Path) -> None:
    train, val = both(tmp_path)
    write_json(val, 100, lambda c: c.pop('annotations'))
    evaluator = dict(type='CocoMetric', ann_file=str(val))
    with pytest.raises(UserError, match='with nothing to evaluate: .*format_only=True to val_eval'):
        check(coco(train), coco(val, test_mode=True), val_evaluator=evaluator)
    evaluator['format_only'] = True
    assert check(coco(train), coco(val, test_mode=True), val_evaluator=evaluator) == []


class MaskRCNN(nn.Module):
    roi_head = SimpleNamespace(with_mask=True)


def test_masks_that_a_head_needs_are_there_and_loaded(tmp_path: Path) -> None:
    polygon = [[5, 5, 25, 5, 25, 15]]
    train, _ = both(tmp_path, set_each('segmentation', polygon))
    with_masks = [LOAD, dict(type='LoadAnnotations', with_bbox=True, with_mask=True), PACK]
    assert check(coco(train, pipeline=with_masks), model=MaskRCNN()) == []
    with pytest.raises(UserError, match='pipelines that load too little: .*with_mask=True'):
        check(coco(train), model=MaskRCNN())

    def some_without(content: dict) -> None:
        set_each('segmentation', polygon)(content)
        del content['annotations'][3]['segmentation']
        content['annotations'][4]['segmentation'] = []

    write_json(train, change=some_without)
    with pytest.raises(UserError, match='2 annotations without the mask that the pipeline'):
        check(coco(train, pipeline=with_masks), model=MaskRCNN())
    assert check(coco(train)) == []


def label_maps(root: Path, value: int, **changes: object) -> dict:
    """Write twenty images, and maps of which 40 % have the value and the others 0."""
    for i in range(20):
        for folder, pixels in (('img', 0), ('ann', value)):
            image = np.zeros((40, 60), np.uint8)
            image[:16] = pixels
            (root / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(root / folder / f'{i}.png'), image)
    return label_map_config(root, **{'img_suffix': '.png', **changes})


def test_masks_of_0_and_255_are_a_warning(tmp_path: Path) -> None:
    dataset = label_maps(tmp_path, 255)
    (warning,) = check(dataset)
    assert (
        '40% of the pixels of 20 label maps are 255, which is ignored, and none has thing'
        in warning
    )
    with pytest.raises(UserError, match='model.decode_head.num_classes is 19; .* has 2: ground'):
        check(dataset, model=nn.ModuleDict(dict(decode_head=Head(19))))


def test_label_maps_of_jpeg_are_named(tmp_path: Path) -> None:
    dataset = label_maps(tmp_path, 1)
    for path in (tmp_path / 'ann').iterdir():
        path.unlink()
        noise = np.random.RandomState(0).randint(0, 3, (40, 60))
        cv2.imwrite(str(path.with_suffix('.jpg')), noise.astype(np.uint8))
    with pytest.raises(UserError, match='of 2 classes; JPEG changes numbers: save PNG'):
        check({**dataset, 'seg_map_suffix': '.jpg'})


def test_a_suffix_that_no_image_has_is_named_with_those_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="img: img_suffix is '.jpg', the files have .png$"):
        check(label_maps(tmp_path, 1, img_suffix='.jpg'))


def test_a_softmax_of_one_class_is_refused(tmp_path: Path) -> None:
    names = dict(classes=('thing',), palette=[[255, 0, 0]])
    dataset = label_maps(tmp_path, 0, metainfo=names)
    head = dict(type='mmseg.FCNHead', in_channels=4, channels=4, num_classes=1, out_channels=1)

    def model(use_sigmoid: bool) -> nn.Module:
        loss = dict(type='mmseg.CrossEntropyLoss', use_sigmoid=use_sigmoid)
        return nn.ModuleDict(dict(decode_head=MODELS.build(dict(head, loss_decode=loss))))

    check(dataset, model=model(use_sigmoid=True))
    with pytest.raises(UserError, match='softmax of one class: the loss of model.decode_head'):
        check(dataset, model=model(use_sigmoid=False))


def folders(root: Path, *names: str, **changes: object) -> dict:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name / 'a.png'), np.zeros((4, 4), np.uint8))
    return dict(
        _scope_='mmpretrain',
        type='ImageNet',
        data_root=str(root),
        pipeline=[LOAD, PACK_CLASSES],
        **changes,
    )


def test_folders_are_the_classes_of_a_classifier(tmp_path: Path) -> None:
    dataset = folders(tmp_path, 'ant', 'bee', 'fly')
    message = r"3 folders, .*has 1000; write metainfo=dict\(classes=\('ant', 'bee', 'fly'\)\)"
    with pytest.raises(UserError, match=message):
        check(dataset)
    names = dict(classes=('ant', 'bee', 'fly'))
    assert check({**dataset, 'metainfo': names}, model=nn.ModuleDict(dict(head=Head(3)))) == []
    with pytest.raises(UserError, match='model.head.num_classes is 1000; .* has 3: ant'):
        check({**dataset, 'metainfo': names}, model=nn.ModuleDict(dict(head=Head(1000))))
    with pytest.raises(UserError, match='3 folders, .* has 4; make one for yak, if only empty'):
        check({**dataset, 'metainfo': dict(classes=('ant', 'bee', 'fly', 'yak'))})
    top = dict(type='Accuracy', topk=(1, 5))
    with pytest.raises(UserError, match='val_evaluator.topk: 5 of 3 classes: write topk=.1,'):
        check(dataset | dict(metainfo=names), dataset | dict(metainfo=names), val_evaluator=top)
    (tmp_path / 'bee/a.png').unlink()
    assert check({**dataset, 'metainfo': names}) == [
        'train_dataloader.dataset: classes without a sample: 1 of 3: bee'
    ]
    for name in ('ant', 'fly'):
        (tmp_path / name / 'a.png').rename(tmp_path / name / 'a.webp')
    with pytest.raises(UserError, match='Found 0 files in subfolders .* extensions are: .*.jpg'):
        check({**dataset, 'metainfo': names})
    with pytest.raises(UserError, match='0 folders, .*; put each image into a folder of its class'):
        check({**dataset, 'metainfo': names, 'data_root': str(tmp_path / 'ant')})
    swapped = dict(classes=('bee', 'ant', 'fly'))
    with pytest.raises(UserError, match='mmpretrain numbers them ant, bee, fly'):
        check({**dataset, 'metainfo': swapped})


def test_a_hidden_folder_is_not_taken_for_a_class(tmp_path: Path) -> None:
    dataset = folders(tmp_path, '.cache', 'bee', 'fly') | dict(type='CustomDataset')
    with pytest.raises(UserError, match='hidden folders that count as classes: .*: .cache; remo'):
        check(dataset)


def test_labels_of_a_list_are_checked(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / 'a b.png'), np.zeros((4, 4), np.uint8))
    dataset = folders(tmp_path, ann_file='list.txt') | dict(type='CustomDataset')
    model = nn.ModuleDict(dict(head=Head(2)))
    for lines, message in (
        ('a b.png 0\na b.png 1\n', None),
        ('a b.png 1\na b.png 2\n', 'labels out of range: .*a b.png: 2, of 2 classes'),
        ('a b.png,0\n', "lists that cannot be read: .*list.txt: line 1 is 'a b.png,0'; write"),
    ):
        (tmp_path / 'list.txt').write_text(lines)
        if message is None:
            assert check(dataset, model=model) == []
            continue
        with pytest.raises(UserError, match=message):
            check(dataset, model=model)
    (tmp_path / 'list.txt').write_text('a b.png -1\n')
    with pytest.raises(UserError, match='a b.png: -1$'):
        check(dataset)


def test_only_mmpretrains_own_lists_are_read_as_such(tmp_path: Path) -> None:
    class CustomDataset(BaseDataset):
        with_label = True

        def load_data_list(self) -> list[dict]:
            return [{}]

    DATASETS.register_module('CustomLists', module=CustomDataset)
    (tmp_path / 'list.txt').write_text('of another format')
    assert check(dict(type='CustomLists', ann_file=str(tmp_path / 'list.txt'))) == []


def only(category: int) -> Callable[[dict], object]:
    return lambda content: content.update(
        annotations=[a for a in content['annotations'] if a['category_id'] == category]
    )


def test_classes_without_a_sample_are_those_of_all_sets_of_a_part(tmp_path: Path) -> None:
    cats, dogs = tmp_path / 'cats.json', tmp_path / 'dogs.json'
    write_json(cats, change=only(0))
    write_json(dogs, 100, only(1))
    several = dict(_scope_='mmdet', type='ConcatDataset', datasets=[coco(cats), coco(dogs)])
    assert check(several) == []
    message = 'classes without a sample: 1 of 2: dog'
    for name, wrapper in (
        ('dataset', dict(type='RepeatDataset', times=2)),
        ('dataset', dict(type='ClassBalancedDataset', oversample_thr=0.1)),
        ('dataset', dict(type='MultiImageMixDataset', pipeline=[])),
        ('datasets.0', dict(type='ConcatDataset')),
    ):
        inner = dict(datasets=[coco(cats)]) if name == 'datasets.0' else dict(dataset=coco(cats))
        key = f'train_dataloader.dataset.{name}'
        assert check(dict(_scope_='mmdet', **wrapper, **inner)) == [f'{key}: {message}']
    tested = Config(dict(test_dataloader=dict(dataset=coco(cats, test_mode=True))))
    assert check_problem(tested, nn.Module(), ['test']) == [f'test_dataloader.dataset: {message}']
    # What is ignored is no sample.
    write_json(cats, change=set_each('iscrowd', 1))
    (warning,) = check(coco(cats))
    assert warning.endswith('classes without a sample: 2 of 2: cat, dog')


class Detector(nn.Module):
    bbox_head = None


def test_pipelines_load_and_pack_what_is_needed(tmp_path: Path) -> None:
    train, val = both(tmp_path)
    for steps, message in (
        ([LOAD, PACK], r'load too little: write dict\(type=.LoadAnnotations., with_bbox=True\)'),
        (
            [LOAD, dict(type='LoadAnnotations')],
            r'pack too little: .* add dict\(type=.PackDetInputs',
        ),
    ):
        with pytest.raises(UserError, match=message):
            check(coco(train, pipeline=steps), model=Detector())
    no_id = coco(val, test_mode=True, pipeline=[LOAD, dict(PACK, meta_keys=('img_path',))])
    with pytest.raises(UserError, match="^val_.*pack too little: add 'img_id' to the meta_keys"):
        check(coco(train), no_id, Detector(), val_evaluator=dict(ann_file=str(val)))
    no_map = label_maps(tmp_path, 1, pipeline=[LOAD, PACK_MAPS])
    with pytest.raises(UserError, match='load too little: .*with_seg=True'):
        check(no_map, model=nn.ModuleDict(dict(decode_head=Head(2))))


@pytest.mark.parametrize(
    'path',
    [
        'mask_rcnn_cont_m_fpn_1x_coco.py',
        'pspnet_cmt_s_80k_cityscapes.py',
        'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
        'mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
        'mmpretrain::resnet/resnet18_8xb16_cifar10.py',
    ],
)
def test_stock_configs_lack_nothing(path: str) -> None:
    path = path if '::' in path else str(ROOT / 'configs' / path)
    cfg = load_config(path, {'model.backbone.init_cfg': None})
    import_datasets(cfg)
    model = build_model(cfg, meta=True)
    file = CocoFile('a.json', {0: None}, {}, {0: None}, []) if 'coco' in path else None
    for part in ('train', 'val', 'test'):
        key = f'{part}_dataloader.dataset'
        for inner, config in leaf_datasets(key, cfg[f'{part}_dataloader'].dataset):
            dataset = _build(config)
            classes = list(dataset.metainfo['classes'])
            data = Data(inner, config, dataset, classes, file=file)
            assert list(head_issues(model, data)) == []
            assert list(pipeline_issues(model, data, part)) == []
            assert list(metric_issues(cfg, model, data, part)) == []


def test_metrics_are_of_what_is_predicted(tmp_path: Path) -> None:
    train, val = both(tmp_path)
    evaluator = dict(ann_file=str(val), metric=['bbox', 'segm'])
    with pytest.raises(UserError, match="val_evaluator.metric: 'segm' needs masks"):
        check(coco(train), coco(val), Detector(), val_evaluator=evaluator)
    maps = label_maps(tmp_path, 1)
    with pytest.raises(UserError, match='iou_metrics: mIOU; choose from mIoU, mDice, mFscore'):
        check(maps, maps, val_evaluator=dict(type='IoUMetric', iou_metrics=['mIOU']))


def test_losses_weigh_the_classes_there_are(tmp_path: Path) -> None:
    train, _ = both(tmp_path)
    loss = nn.Module()
    loss.class_weight = [1.0] * 3
    with pytest.raises(UserError, match='model.loss_module.class_weight has 3; metainfo.classes'):
        check(coco(train), model=nn.ModuleDict(dict(loss_module=loss)))
    head = nn.Module()
    for weights, fits in (([1.0] * 2, True), ([1.0] * 3, True), ([1.0] * 4, False), (None, True)):
        head.class_weight = weights
        if fits:
            assert check(coco(train), model=nn.ModuleDict(dict(head=head))) == []
            continue
        with pytest.raises(UserError, match='model.head.class_weight has 4; metainfo.classes has'):
            check(coco(train), model=nn.ModuleDict(dict(head=head)))


def test_windows_have_a_size(tmp_path: Path) -> None:
    model = nn.Module()
    model.test_cfg = dict(mode='slide', crop_size=(8, 8))
    with pytest.raises(UserError, match='windows of no size: model.test_cfg: .* needs stride$'):
        check(label_maps(tmp_path, 1), model=model)
    model.test_cfg['stride'] = (4, 4)
    assert check(label_maps(tmp_path, 1), model=model) == []


def test_crops_have_the_size_that_they_are_padded_to(tmp_path: Path) -> None:
    crop = dict(type='RandomCrop', crop_size=(8, 16))
    dataset = label_maps(
        tmp_path, 1, pipeline=[LOAD, dict(type='LoadAnnotations'), crop, PACK_MAPS]
    )
    for size, odd in (((8, 16), 0), ((16, 16), 1)):
        warnings = check(dataset, model=Sized(size))
        assert len(warnings) == odd
    assert warnings[0].endswith('(8, 16), while data_preprocessor.size is (16, 16): write the same')


class Sized(nn.Module):
    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.data_preprocessor = SimpleNamespace(size=size)


def test_a_set_of_empty_images_may_be_meant(tmp_path: Path) -> None:
    train, val = both(tmp_path)
    write_json(val, 100, lambda c: c.update(annotations=[]))
    empty = coco(val, filter_cfg=dict(filter_empty_gt=False))
    several = dict(_scope_='mmdet', type='ConcatDataset', datasets=[coco(train), empty])
    assert check(several) == []
    with pytest.raises(UserError, match='annotation files with an empty list'):
        check({**several, 'datasets': [coco(train), coco(val)]})


def test_classes_of_a_checkpoint_are_compared(tmp_path: Path) -> None:
    train, val = both(tmp_path)
    path = tmp_path / 'epoch_1.pth'
    tested = Config(dict(test_dataloader=dict(dataset=coco(val, test_mode=True))))

    def note(*classes: str) -> None:
        torch.save(dict(meta=dict(dataset_meta=dict(classes=classes)), state_dict={}), path)

    note('cat', 'dog')
    assert check(coco(train), checkpoint=str(path)) == []
    note('dog', 'cat')
    (warning,) = check(coco(train), checkpoint=str(path))
    assert f'of classes in another order: {path}: dog, cat; metainfo.classes is cat' in warning
    with pytest.raises(UserError, match='of classes in another order'):
        check_problem(tested, nn.Module(), ['test'], str(path))
    note('owl', 'cat')
    (warning,) = check_problem(tested, nn.Module(), ['test'], str(path))
    assert 'checkpoints of other classes' in warning


def test_a_file_is_read_alike_whether_it_is_json_or_only_pythons(tmp_path: Path) -> None:
    write_json(tmp_path / 'a.json', change=lambda c: c.update(info=dict(year=2026)))
    write_json(tmp_path / 'b.json', change=lambda c: c.update(info=dict(year=float('nan'))))
    first, second = read_coco(tmp_path / 'a.json'), read_coco(tmp_path / 'b.json')
    assert first[1:] == second[1:]
    assert len(first.annotations) == 12


def test_crowds_are_completed_where_metrics_evaluate() -> None:
    from mmcontnet.engine.run import CrowdHook

    annotations = [dict(id=1), dict(id=2, iscrowd=1)]
    metric = SimpleNamespace(_coco_api=SimpleNamespace(dataset=dict(annotations=annotations)))
    evaluator = SimpleNamespace(metrics=[metric, SimpleNamespace()])
    CrowdHook().before_val(SimpleNamespace(val_evaluator=evaluator))
    assert [a['iscrowd'] for a in annotations] == [0, 1]
