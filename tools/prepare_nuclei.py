"""Fetch a microscope image of cell nuclei with masks; lay it out as COCO and Cityscapes do.

The image (fluorescence microscopy, 512 x 512 pixels, 2018 Data Science Bowl) and the masks of its
125 nuclei come with the Python package stardist, which is downloaded through the package index and
not installed. The top three quarters are for training, the bottom quarter is for validation, and no
pixel is in two tiles. Instances are there in COCO's form,

    data/nuclei/train/*.png  val/*.png  annotations/train.json  annotations/val.json

and once more in the folders, names and encodings of Cityscapes, for configs of that data set:

    data/nuclei/cityscapes/leftImg8bit/{train,val}/nuclei/*_leftImg8bit.png
    data/nuclei/cityscapes/gtFine/{train,val}/nuclei/*_gtFine_{instanceIds,labelIds,labelTrainIds}.png
    data/nuclei/cityscapes/annotations/instancesonly_filtered_gtFine_{train,val}.json

There the nuclei are cars and what is between them is road, because the datasets of mmdet and mmseg
know no other classes than those of Cityscapes.

A second call finds the data set and does nothing.
"""

from __future__ import annotations

from pathlib import Path

import _prepare
import numpy as np
from _prepare import Box
from PIL import Image
from pycocotools import mask as coco_mask

REQUIREMENT = 'stardist==0.9.2'
PACKAGE = _prepare.Package(
    REQUIREMENT,
    sha256={
        'img2d.tif': 'f9ccc1571b92c861ff87e28463068b43f61bd47357ed0503f711e5cd1eb97750',
        'mask2d.tif': '59ad5e820b7982ca9d13e946fa6e7f64e2714899e00a2ae6c69aa79aad53d46f',
    },
    attribution=f"""\
Tiles of a fluorescence microscopy image of cell nuclei from the 2018 Data Science Bowl (Caicedo et
al., "Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl", Nature Methods
16, 2019) with masks, as they come with the Python package {REQUIREMENT}
(https://github.com/stardist/stardist) under the BSD 3-Clause License, reproduced below. Cut and
stretched to 8 bits by tools/prepare_nuclei.py of mmcontnet.

""",
    platform=(
        *('--platform', 'manylinux_2_28_x86_64', '--implementation', 'cp'),
        *('--python-version', '3.11', '--abi', 'cp311'),
    ),
)
TILE = 256  # longest side of a tile, in pixels
# Dividing nuclei are ten times as bright as the others; at the image's own maximum, these would
# hardly be seen.
BLACK, WHITE = 1, 99  # percentiles of the image
# A piece that a cut leaves with less than this share of its nucleus is no instance, and void to
# segmentation: what is left can hardly be recognised.
MIN_VISIBLE = 0.3

# Cityscapes' labels of the classes that lend their names, in labelIds and instanceIds; and what
# each is in labelTrainIds.
UNLABELED, ROAD, CAR = 0, 7, 26
TRAIN_IDS = {UNLABELED: 255, ROAD: 0, CAR: 13}
CITYSCAPES_CATEGORIES = {24: 'person', 25: 'rider', 26: 'car', 27: 'truck', 28: 'bus'}
CITYSCAPES_CATEGORIES |= {31: 'train', 32: 'motorcycle', 33: 'bicycle'}


def stretch(image: np.ndarray) -> np.ndarray:
    """Turn a microscope's counts (H, W) into 8-bit grey (H, W)."""
    black, white = np.percentile(image, (BLACK, WHITE))
    return (np.clip((image - black) / (white - black), 0, 1) * 255).round().astype(np.uint8)


def instance_ids(nuclei: np.ndarray, tile: Box) -> np.ndarray:
    """Number the nuclei of a tile as Cityscapes numbers cars.

    Args:
        nuclei: (H, W) numbers of the nuclei in the whole image, 0 between them.
        tile: What to look at.

    Returns:
        (h, w) uint16 of the tile: `ROAD`; 1000 `CAR` + 0, 1, 2, ... for each nucleus; `UNLABELED`
        where a cut has left too little of one.
    """
    left, top, right, bottom = tile
    pieces = nuclei[top:bottom, left:right]
    areas = np.bincount(nuclei.ravel())
    ids = np.full(pieces.shape, ROAD, np.uint16)
    instances = 0
    for nucleus, area in zip(*np.unique(pieces[pieces > 0], return_counts=True), strict=True):
        if area < MIN_VISIBLE * areas[nucleus]:
            ids[pieces == nucleus] = UNLABELED
        else:
            ids[pieces == nucleus] = 1000 * CAR + instances
            instances += 1
    return ids


def save(pixels: np.ndarray | Image.Image, path: Path) -> None:
    """Write an image, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(path)


def write(source: Path, folder: Path) -> None:
    """Cut the image in `source` into tiles, and write these and their masks in both layouts."""
    with Image.open(source / 'img2d.tif') as file:
        image = stretch(np.asarray(file))
    with Image.open(source / 'mask2d.tif') as file:
        nuclei = np.asarray(file)
    city = folder / 'cityscapes'
    parts = {part: _prepare.Coco({1: 'nucleus'}) for part in ('train', 'val')}
    for part, tile in _prepare.tiles(*nuclei.shape[::-1], TILE):
        left, top, right, bottom = tile
        stem = f'nuclei_{top:06d}_{left:06d}'  # as Cityscapes' CITY_SEQUENCE_FRAME
        picture = Image.fromarray(image[top:bottom, left:right]).convert('RGB')
        save(picture, folder / part / f'{stem}.png')
        save(picture, city / 'leftImg8bit' / part / 'nuclei' / f'{stem}_leftImg8bit.png')
        ids = instance_ids(nuclei, tile)
        labels = np.where(ids >= 1000 * CAR, CAR, ids).astype(np.uint8)
        train_ids = np.vectorize(TRAIN_IDS.get, otypes=[np.uint8])(labels)
        masks = dict(instanceIds=ids, labelIds=labels, labelTrainIds=train_ids)
        for kind, pixels in masks.items():
            save(pixels, city / 'gtFine' / part / 'nuclei' / f'{stem}_gtFine_{kind}.png')
        coco = parts[part]
        coco.add_image(height=ids.shape[0], width=ids.shape[1], file_name=f'{stem}.png')
        for number in np.unique(ids[ids >= 1000 * CAR]):
            mask = coco_mask.encode(np.asfortranarray(ids == number, np.uint8))
            bbox, area = coco_mask.toBbox(mask).tolist(), int(coco_mask.area(mask))
            coco.add(1, bbox, area, segmentation=dict(mask, counts=mask['counts'].decode()))
    for part, coco in parts.items():
        coco.write(folder / 'annotations' / f'{part}.json')
        # The same once more as Cityscapes' converter writes it.
        coco['categories'] = _prepare.Coco(CITYSCAPES_CATEGORIES)['categories']
        for entry in coco['images']:
            stem = f'nuclei/{Path(entry["file_name"]).stem}'
            entry['file_name'] = f'{stem}_leftImg8bit.png'
            entry['segm_file'] = f'{stem}_gtFine_labelIds.png'
        for annotation in coco['annotations']:
            annotation['category_id'] = CAR
        coco.write(city / f'annotations/instancesonly_filtered_gtFine_{part}.json')


if __name__ == '__main__':
    _prepare.command_line(__doc__, 'data/nuclei', PACKAGE, write)
