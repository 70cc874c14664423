"""Fetching data: tools/_prepare.py with a pip of ours, and how digits and tree crowns are cut."""

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mmpretrain.datasets import FashionMNIST
from PIL import Image

from .preparation import load_tool, run_for_real

_prepare = load_tool('_prepare')
crowns = load_tool('prepare_tree_crowns')
digits = load_tool('prepare_digits')

CONTENT = b'pixels'
SHA256 = {'image.tif': hashlib.sha256(CONTENT).hexdigest()}
PACKAGE = _prepare.Package('package==1.0', SHA256, 'From somewhere.\n', ('--platform', 'any_1'))
WHEEL = {
    'package/data/image.tif': CONTENT,
    'package/data/other.tif': b'not asked for',
    'package/vendored/LICENSE': b'of something else',
    'package-1.0.dist-info/licenses/LICENSE': b'MIT License',
    'package-1.0.dist-info/licenses/LICENSE-DATA.txt': b'CC BY',
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Have pip "download" a wheel with one file of interest; the list of pip's calls."""
    calls = []

    def download(command: list[str], **kwargs: object) -> subprocess.CompletedProcess:
        calls.append(command)
        with zipfile.ZipFile(Path(command[-2], 'package.whl'), 'w') as archive:
            for name, content in WHEEL.items():
                archive.writestr(name, content)
        return subprocess.CompletedProcess(command, 0, '', '')

    monkeypatch.setattr(_prepare.subprocess, 'run', download)
    return calls


def copy(source: Path, folder: Path) -> None:
    assert [path.name for path in source.iterdir() if path.suffix == '.tif'] == ['image.tif']
    (folder / 'copy.tif').write_bytes((source / 'image.tif').read_bytes())


def test_a_data_set_holds_what_was_written_and_the_licences_and_is_made_once(
    calls: list, tmp_path: Path
) -> None:
    target = tmp_path / 'data' / 'set'
    half = tmp_path / 'data' / 'set.partial' / 'half.png'  # of a call that was killed
    half.parent.mkdir(parents=True)
    half.touch()
    assert _prepare.prepare(target, PACKAGE, copy)
    assert {path.name for path in target.iterdir()} == {'ATTRIBUTION.txt', 'copy.tif'}
    assert (target / 'copy.tif').read_bytes() == CONTENT
    assert (target / 'ATTRIBUTION.txt').read_text() == 'From somewhere.\nMIT License\nCC BY'
    assert not half.parent.exists()
    assert not _prepare.prepare(target, PACKAGE, copy)
    (call,) = calls
    assert call[-1] == 'package==1.0' and 'any_1' in call


@pytest.mark.parametrize('sha256', [{'image.tif': '0' * 64}, {'gone.tif': '0' * 64}])
def test_another_content_than_expected_is_one_clear_line(
    calls: list, tmp_path: Path, sha256: dict
) -> None:
    with pytest.raises(SystemExit, match=f'^error: package==1.0 does not .* {next(iter(sha256))}'):
        _prepare.prepare(tmp_path / 'set', PACKAGE._replace(sha256=sha256), copy)
    assert not list(tmp_path.glob('set*/'))


@pytest.mark.parametrize(
    ('raised', 'line'),
    [
        (None, r'error: cannot download package==1.0, see above \(is there a network'),
        (OSError(28, 'No space left on device'), r'error: .*No space left on device \(preparing'),
        (KeyboardInterrupt(), 'interrupted; nothing is left behind'),
    ],
)
def test_a_preparation_that_fails_says_so_in_one_line_and_leaves_nothing(
    calls: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: object, line: str
) -> None:
    def stop(source: Path, folder: Path) -> None:
        copy(source, folder)
        raise raised

    if raised is None:
        failed = subprocess.CompletedProcess([], 1)
        monkeypatch.setattr(_prepare.subprocess, 'run', lambda *args, **kwargs: failed)
    monkeypatch.setattr(sys, 'argv', ['prepare_it.py', str(tmp_path / 'set')])
    with pytest.raises(SystemExit, match=f'^{line}.*$'):
        _prepare.command_line('It.', 'data/it', PACKAGE, stop)
    assert not list(tmp_path.glob('set*/'))


def test_without_apt_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))
    package = _prepare.Package('dataset-it', SHA256, '', debian=True)
    with pytest.raises(SystemExit, match='come with the Debian package dataset-it: no apt-get'):
        _prepare.prepare(tmp_path / 'set', package, copy)
    assert not list(tmp_path.glob('set*/'))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('apt-get'), reason='needs apt-get')
def test_fashion_mnist_is_what_mmpretrain_reads(tmp_path: Path) -> None:
    made = run_for_real('prepare_fashion_mnist', tmp_path / 'set')
    assert made.endswith('set: made\n')
    assert 'Zalando' in (tmp_path / 'set/ATTRIBUTION.txt').read_text()
    for split, number in (('train', 60_000), ('test', 10_000)):
        dataset = FashionMNIST(
            str(tmp_path / 'set'), split, download=False, test_mode=split == 'test'
        )
        assert len(dataset) == number
        counts = np.bincount([info['gt_label'] for info in dataset.load_data_list()])
        assert counts.tolist() == [number / 10] * 10


def test_tiles_cover_every_pixel_exactly_once_and_keep_the_parts_apart() -> None:
    for width, height in ((500, 900), (2299, 2472), (1249, 1035), (400, 400), (7, 5)):
        count = np.zeros((height, width), int)
        border = int(height * _prepare.TRAIN_SHARE)
        for part, (left, top, right, bottom) in _prepare.tiles(width, height, 400):
            assert 0 < right - left <= 400
            assert 0 < bottom - top <= 400
            assert bottom <= border if part == 'train' else top >= border
            count[top:bottom, left:right] += 1
        assert (count == 1).all()


def test_every_fifth_digit_of_a_class_is_for_validation(tmp_path: Path) -> None:
    labels = [7, 0, 7, 7, 0, 7, 7, 7, 7, 7, 7]  # nine sevens and two noughts
    images = np.random.RandomState(0).randint(0, 256, (len(labels), 28, 28))
    lines = [
        ','.join(map(str, [*image.ravel(), label]))
        for image, label in zip(images, labels, strict=True)
    ]
    (tmp_path / 'mnist_5k.csv.gz').write_bytes(gzip.compress('\n'.join(lines).encode()))
    digits.write(tmp_path, tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.glob('*/*/*')}
    train = {f'train/{label}/{i:04d}.png' for i, label in enumerate(labels) if i != 6}
    assert found == train | {'val/7/0006.png'}
    for i, pixels in enumerate(images):
        (path,) = tmp_path.glob(f'*/{labels[i]}/{i:04d}.png')
        assert (np.asarray(Image.open(path)) == pixels).all()


def test_tree_crowns_are_valid_coco_with_the_pixels_of_the_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Cut into two columns, and 2 x 338 rows for training, 225 for validation.
    photograph = np.random.RandomState(0).randint(0, 256, (900, 500, 3), dtype=np.uint8)
    boxes = [
        (10, 20, 50, 70),  # well inside one tile
        (240, 100, 260, 120),  # half in either of two tiles
        (246, 200, 266, 220),  # a fifth in the left tile, which is too little
        (100, 650, 140, 690),  # across the border of training and validation
        (490, 880, 520, 930),  # out of the photograph, by most of it
    ]
    template = '<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>'
    bndboxes = ''.join(f'<bndbox>{template.format(*box)}</bndbox>' for box in boxes)
    (tmp_path / 'crop.xml').write_text(f'<annotation>{bndboxes}</annotation>')
    Image.fromarray(photograph).save(tmp_path / 'crop.png')
    monkeypatch.setattr(crowns, 'PACKAGE', crowns.PACKAGE._replace(sha256={'crop.png': ''}))
    crowns.write(tmp_path, tmp_path)
    found = {}
    for part in ('train', 'val'):
        coco = json.loads((tmp_path / 'annotations' / f'{part}.json').read_text())
        assert coco['categories'] == [{'id': 1, 'name': 'tree'}]
        images = {image['id']: image for image in coco['images']}
        assert len(images) == len(coco['images']) == len(list((tmp_path / part).iterdir()))
        for image in images.values():
            left, top = map(int, Path(image['file_name']).stem.split('_')[-2:])
            tile = np.asarray(Image.open(tmp_path / part / image['file_name']))
            assert tile.shape == (image['height'], image['width'], 3)
            assert (tile == photograph[top:, left:][: tile.shape[0], : tile.shape[1]]).all()
        found[part] = [annotation['id'] for annotation in coco['annotations']]
        for annotation in coco['annotations']:
            image = images[annotation['image_id']]
            x, y, w, h = annotation['bbox']
            assert x >= 0 and y >= 0 and w > 0 and h > 0
            assert x + w <= image['width'] and y + h <= image['height']
            assert annotation['area'] == w * h
            assert (annotation['category_id'], annotation['iscrowd']) == (1, 0)
    # Inside, the two halves, four fifths; and one piece of the crown on the border in either part.
    assert found == dict(train=[1, 2, 3, 4, 5], val=[1])
