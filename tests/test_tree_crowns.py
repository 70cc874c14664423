"""The quickstart's data: tools/prepare_tree_crowns.py."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .preparation import load_tool, run_for_real, serve

crowns = load_tool('prepare_tree_crowns')

WIDTH, HEIGHT = 500, 900  # cut into two columns; training 2 x 338, validation 1 x 225 rows
BOXES = [
    (10, 20, 50, 70),  # well inside one tile
    (240, 100, 260, 120),  # half in either of two tiles
    (246, 200, 266, 220),  # a fifth in the left tile, which is too little
    (100, 650, 140, 690),  # across the border of training and validation
    (490, 880, 520, 930),  # out of the photograph, by most of it
]
VOC = '<annotation>{}</annotation>'
OBJECT = (
    '<object><name>Tree</name><bndbox><xmin>{}</xmin><ymin>{}</ymin>'
    '<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have pip "download" a wheel with one photograph; its path."""
    pixels = np.random.RandomState(0).randint(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    photograph = tmp_path / 'crop.png'
    Image.fromarray(pixels).save(photograph)
    files = {
        'crop.png': photograph.read_bytes(),
        'crop.xml': VOC.format(''.join(OBJECT.format(*box) for box in BOXES)).encode(),
    }
    wheel = {f'deepforest/data/{name}': content for name, content in files.items()}
    serve(monkeypatch, {**wheel, 'deepforest-2.1.0.dist-info/licenses/LICENSE': b'MIT License'})
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(crowns, 'PACKAGE', crowns.PACKAGE._replace(sha256=sha256))
    return photograph


def load(target: Path, part: str) -> dict:
    return json.loads((target / 'annotations' / f'{part}.json').read_text())


@pytest.mark.parametrize(
    ('box', 'clipped'),
    [
        ((110, 220, 130, 250), (10, 20, 30, 50)),
        ((90, 220, 130, 250), (0, 20, 30, 50)),
        ((190, 290, 240, 340), None),  # a twenty-fifth of it
        ((0, 0, 50, 50), None),
        ((200, 200, 220, 220), None),  # touches the tile from outside
    ],
)
def test_boxes_are_clipped_to_the_tile_and_small_remnants_dropped(box, clipped):
    assert crowns.clip(box, (100, 200, 200, 300)) == clipped


def test_the_data_set_is_valid_coco_with_the_pixels_of_the_photograph(package, tmp_path):
    target = tmp_path / 'data' / 'tree_crowns'
    assert crowns.prepare(target)
    photograph = np.asarray(Image.open(package))
    for part in ('train', 'val'):
        coco = load(target, part)
        assert coco['categories'] == [{'id': 1, 'name': 'tree'}]
        images = {image['id']: image for image in coco['images']}
        assert len(images) == len(coco['images']) == len(list((target / part).iterdir()))
        for image in images.values():
            left, top = map(int, Path(image['file_name']).stem.split('_')[-2:])
            tile = np.asarray(Image.open(target / part / image['file_name']))
            assert tile.shape == (image['height'], image['width'], 3)
            assert (tile == photograph[top:, left:][: tile.shape[0], : tile.shape[1]]).all()
        ids = [annotation['id'] for annotation in coco['annotations']]
        assert len(set(ids)) == len(ids)
        for annotation in coco['annotations']:
            image = images[annotation['image_id']]
            x, y, w, h = annotation['bbox']
            assert x >= 0 and y >= 0 and w > 0 and h > 0
            assert x + w <= image['width'] and y + h <= image['height']
            assert annotation['area'] == w * h
            assert (annotation['category_id'], annotation['iscrowd']) == (1, 0)
    # Inside, the two halves, four fifths; and one piece of the crown on the border in either part.
    assert len(load(target, 'train')['annotations']) == 5
    assert len(load(target, 'val')['annotations']) == 1
    assert 'MIT License' in (target / 'ATTRIBUTION.txt').read_text()
    assert {path.name for path in target.iterdir()} == {
        'ATTRIBUTION.txt', 'annotations', 'train', 'val'
    }  # fmt: skip


@pytest.mark.slow
def test_the_real_photographs_give_the_published_numbers_of_tiles(tmp_path):
    printed = run_for_real('prepare_tree_crowns', tmp_path / 'd')
    assert 'train: 38 images, 665 tree crowns' in printed
    assert 'val: 16 images, 242 tree crowns' in printed
