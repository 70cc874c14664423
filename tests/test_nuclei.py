"""Real data with masks: tools/prepare_nuclei.py."""

import importlib
import json
import runpy
from pathlib import Path

import mmdet
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from .preparation import load_tool

nuclei = load_tool('prepare_nuclei')

# Height and width: two columns of tiles; two rows of 240 pixels for training, one of 160 beside.
SIZE = 640, 400
# Left, top, right, bottom of nuclei.
NUCLEI = [
    (10, 20, 50, 70),  # well inside one tile
    (190, 100, 210, 120),  # half in either of two tiles
    (196, 200, 216, 220),  # a fifth in the left tile, which is too little
    (100, 470, 140, 490),  # across the border of training and validation
    (300, 600, 330, 640),  # at the image's end
]
# Which pieces of these are instances, in the tiles' pixels.
PIECES = {
    'train': {
        (0, 0): [(10, 20, 50, 70), (190, 100, 200, 120)],
        (0, 200): [(0, 100, 10, 120), (0, 200, 16, 220)],
        (240, 0): [(100, 230, 140, 240)],
        (240, 200): [],
    },
    'val': {(480, 0): [(100, 0, 140, 10)], (480, 200): [(100, 120, 130, 160)]},
}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The data set of an image of rectangular nuclei."""
    masks = np.zeros(SIZE, np.uint16)
    for i, (left, top, right, bottom) in enumerate(NUCLEI):
        masks[top:bottom, left:right] = 3 * i + 2
    image = 100 + 200 * (masks > 0)
    for name, pixels in (('img2d.tif', image), ('mask2d.tif', masks)):
        Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / name)
    nuclei.write(tmp_path, tmp_path)
    return tmp_path


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize('part', ['train', 'val'])
def test_coco_masks_boxes_and_areas_are_those_of_the_pieces(target, part):
    coco = load(target / 'annotations' / f'{part}.json')
    assert coco['categories'] == [{'id': 1, 'name': 'nucleus'}]
    found: dict[tuple[int, int], list] = {}
    for image in coco['images']:
        place = tuple(map(int, Path(image['file_name']).stem.split('_')[1:]))
        found[place] = []
        shape = pixels(target / part / image['file_name']).shape
        assert shape == (image['height'], image['width'], 3)
        for annotation in coco['annotations']:
            if annotation['image_id'] != image['id']:
                continue
            left, top, width, height = map(int, annotation['bbox'])
            mask = np.zeros(shape[:2], np.uint8)
            mask[top : top + height, left : left + width] = 1
            assert (coco_mask.decode(annotation['segmentation']) == mask).all()
            assert annotation['area'] == mask.sum()
            assert (annotation['category_id'], annotation['iscrowd']) == (1, 0)
            found[place].append((left, top, left + width, top + height))
    assert found == PIECES[part]
    ids = [annotation['id'] for annotation in coco['annotations']]
    assert len(set(ids)) == len(ids)
    assert min(ids) == 1


@pytest.mark.parametrize('part', ['train', 'val'])
def test_cityscapes_annotations_are_those_of_mmdets_converter(target, part, tmp_path):
    """The converter reads the images alone, so these are as it expects them, too."""
    path = Path(mmdet.__file__).parent / '.mim/tools/dataset_converters/cityscapes.py'
    converter = runpy.run_path(str(path))
    root = target / 'cityscapes'
    files = converter['collect_files'](
        str(root / 'leftImg8bit' / part), str(root / 'gtFine' / part)
    )
    content = converter['cvt_annotations'](
        converter['collect_annotations'](sorted(files)), str(tmp_path / 'converted.json')
    )
    # It counts from 0, which COCO's evaluation does not bear.
    for image in content['images']:
        image['id'] += 1
    for annotation in content['annotations']:
        annotation['id'] += 1
        annotation['image_id'] += 1
    ours = load(root / 'annotations' / f'instancesonly_filtered_gtFine_{part}.json')
    assert ours == content
    assert len(ours['annotations']) == sum(map(len, PIECES[part].values())) > 0


def test_cityscapes_labels_agree_and_leave_void_what_is_no_instance(target):
    labels = importlib.import_module('cityscapesscripts.helpers.labels')
    for name in ('road', 'car', 'unlabeled'):
        label = labels.name2label[name]
        assert nuclei.TRAIN_IDS[label.id] == label.trainId
    folder = target / 'cityscapes/gtFine/train/nuclei'
    stem = 'nuclei_000000_000000_gtFine'
    instances, ids, train_ids = (
        pixels(folder / f'{stem}_{kind}.png')
        for kind in ('instanceIds', 'labelIds', 'labelTrainIds')
    )
    expected = np.full(instances.shape, 7)
    expected[20:70, 10:50], expected[100:120, 190:] = 26000, 26001
    expected[200:220, 196:] = 0
    assert (instances == expected).all()
    assert (ids == np.where(expected >= 26000, 26, expected)).all()
    assert {(i, t) for i, t in zip(ids.flat, train_ids.flat, strict=True)} == {
        (0, 255), (7, 0), (26, 13)
    }  # fmt: skip
