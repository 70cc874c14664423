"""Small data sets in their real formats: COCO, label maps and class folders."""

import json
from pathlib import Path

import cv2
import numpy as np
from mmdet.datasets import CocoDataset


def _blob(random: np.random.RandomState, size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """Make a noisy image with one bright rectangle, and its box (x, y, w, h)."""
    h, w = size
    image = random.randint(0, 80, (h, w, 3), dtype=np.uint8)
    bw, bh = random.randint(w // 4, w // 2), random.randint(h // 4, h // 2)
    x, y = random.randint(0, w - bw), random.randint(0, h - bh)
    image[y : y + bh, x : x + bw] += 150
    return image, [int(v) for v in (x, y, bw, bh)]


def make_coco(root: Path, images: int = 4) -> None:
    """Write COCO's folders with the names of its 2017 edition and as many categories."""
    random = np.random.RandomState(0)
    (root / 'annotations').mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        (root / split).mkdir()
        content: dict = {
            'images': [],
            'annotations': [],
            'categories': [
                {'id': i, 'name': name}
                for i, name in enumerate(CocoDataset.METAINFO['classes'], start=1)
            ],
        }
        for i in range(1, images + 1):
            # Sides that no patch and no stride divides.
            size = (90 + 7 * i, 131 - 5 * i)
            image, box = _blob(random, size)
            name = f'{i:012d}.jpg'
            cv2.imwrite(str(root / split / name), image)
            content['images'].append(
                {'id': i, 'file_name': name, 'height': size[0], 'width': size[1]}
            )
            content['annotations'].append(
                {
                    'id': i,
                    'image_id': i,
                    'category_id': 1 if i % 2 else 18,
                    'bbox': box,
                    'area': box[2] * box[3],
                    'iscrowd': 0,
                }
            )
        (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))


def make_label_maps(root: Path, images: int = 4) -> None:
    """Write images and label maps of background and rectangle for mmseg's BaseSegDataset."""
    random = np.random.RandomState(0)
    for folder in ('img', 'ann'):
        (root / folder).mkdir(parents=True)
    for i in range(images):
        image, (x, y, w, h) = _blob(random, (75, 98))
        label = np.zeros(image.shape[:2], np.uint8)
        label[y : y + h, x : x + w] = 1
        cv2.imwrite(str(root / 'img' / f'{i}.jpg'), image)
        cv2.imwrite(str(root / 'ann' / f'{i}.png'), label)


def make_class_folders(root: Path, images: int = 4) -> None:
    """Write ImageNet's layout: train/CLASS/*.JPEG and val/CLASS/*.JPEG with two classes."""
    random = np.random.RandomState(0)
    for split in ('train', 'val'):
        for label, name in enumerate(('n01440764', 'n01443537')):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(images):
                image, _ = _blob(random, (80, 70))
                cv2.imwrite(str(folder / f'{i}.JPEG'), image + 60 * label)
