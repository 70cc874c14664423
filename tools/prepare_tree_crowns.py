"""Fetch aerial photographs with annotated tree crowns and cut them into a small COCO data set.

The photographs (US National Ecological Observatory Network, Yellowstone) and their boxes come with
the Python package deepforest, which is downloaded through the package index and not installed. The
top three quarters of each photograph are for training, the bottom quarter is for validation, and no
pixel is in two tiles:

    data/tree_crowns/train/*.png  val/*.png  annotations/train.json  annotations/val.json

A second call finds the data set and does nothing.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import _prepare
import numpy as np
from _prepare import Box
from PIL import Image

REQUIREMENT = 'deepforest==2.1.0'
PACKAGE = _prepare.Package(
    REQUIREMENT,
    # Photographs and VOC boxes.
    sha256={
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
    },
    attribution=f"""\
Tiles of aerial photographs of Yellowstone by the National Ecological Observatory Network (NEON),
with tree crowns annotated by the authors of DeepForest, as they come with the Python package
{REQUIREMENT} (https://github.com/weecology/DeepForest) under the MIT License, reproduced
below. Cut by tools/prepare_tree_crowns.py of mmcontnet; boxes were clipped to the tiles.

""",
)
TILE = 400  # longest side of a tile, in pixels
# A box that a cut leaves with less than this share of its area is dropped: what is left of the
# crown can hardly be recognised.
MIN_VISIBLE = 0.3


def read_boxes(path: Path) -> np.ndarray:
    """The boxes of a VOC annotation file, (N, 4)."""
    sides, boxes = ('xmin', 'ymin', 'xmax', 'ymax'), ET.parse(path).getroot().iter('bndbox')
    return np.array([[int(box.findtext(side, '')) for side in sides] for box in boxes])


def clip(boxes: np.ndarray, tile: Box) -> np.ndarray:
    """The parts of boxes in `tile`, in the tile's own pixels, where enough of them is left."""
    begin, end = tile[:2] * 2, tile[2:] * 2
    parts = boxes.clip(begin, end)
    areas, before = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (parts, boxes))
    return (parts - begin)[areas >= MIN_VISIBLE * before]


def write(source: Path, folder: Path) -> None:
    """Cut the photographs in `source` into tiles, and write these and their boxes as COCO does."""
    parts = {part: _prepare.Coco({1: 'tree'}) for part in ('train', 'val')}
    for path in (source / name for name in PACKAGE.sha256 if name.endswith('.png')):
        boxes = read_boxes(path.with_suffix('.xml'))
        with Image.open(path) as image:
            photograph = image.convert('RGB')
        for part, tile in _prepare.tiles(*photograph.size, TILE):
            name = f'{path.stem}_{tile[0]}_{tile[1]}.png'
            (folder / part).mkdir(exist_ok=True)
            photograph.crop(tile).save(folder / part / name)
            coco, (width, height) = parts[part], (tile[2] - tile[0], tile[3] - tile[1])
            coco.add_image(file_name=name, width=width, height=height)
            for left, top, right, bottom in clip(boxes, tile).tolist():
                w, h = right - left, bottom - top
                coco.add(1, [left, top, w, h], w * h)
    for part, coco in parts.items():
        coco.write(folder / 'annotations' / f'{part}.json')


if __name__ == '__main__':
    _prepare.command_line(__doc__, 'data/tree_crowns', PACKAGE, write)
