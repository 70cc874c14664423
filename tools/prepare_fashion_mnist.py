"""Fetch Fashion-MNIST for mmpretrain: 70,000 photographs of clothes of 28 x 28 pixels.

It comes with the package dataset-fashion-mnist of Debian and Ubuntu, which apt-get downloads and
which is not installed:

    data/fashion_mnist/train-images-idx3-ubyte  train-labels-idx1-ubyte
                       t10k-images-idx3-ubyte   t10k-labels-idx1-ubyte

A second call finds the data set and does nothing.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import _prepare

PACKAGE = _prepare.Package(
    'dataset-fashion-mnist',
    sha256={
        'train-images-idx3-ubyte.gz': (
            'b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7'
        ),
        'train-labels-idx1-ubyte.gz': (
            '0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056'
        ),
        't10k-images-idx3-ubyte.gz': (
            'cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa'
        ),
        't10k-labels-idx1-ubyte.gz': (
            '8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05'
        ),
    },
    attribution="""\
Fashion-MNIST by Han Xiao, Kashif Rasul and Roland Vollgraf (https://arxiv.org/abs/1708.07747), as
it comes with Debian's package dataset-fashion-mnist, whose licence is reproduced below.

""",
    debian=True,
)


def write(source: Path, folder: Path) -> None:
    """Unpack the four files, as mmpretrain reads them."""
    for name in PACKAGE.sha256:
        (folder / Path(name).stem).write_bytes(gzip.decompress((source / name).read_bytes()))


if __name__ == '__main__':
    _prepare.command_line(__doc__, 'data/fashion_mnist', PACKAGE, write)
