"""Pictures of detections beside the annotations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .report import replacing

Box = Sequence[float]  # x, y, width, height in pixels of the image, as in COCO

ANNOTATED, DETECTED = '#33e0ff', '#ffb000'  # apart on vegetation and for the colour-blind
ZOOM = 2  # small photographs are drawn larger, so that the lines are thin beside what they frame
GAP = 6


def draw_pair(image: Image.Image, annotated: Iterable[Box], detected: Iterable[Box]) -> Image.Image:
    """Draw annotated boxes on one copy of an image and detected ones on another beside it.

    Args:
        image: The image.
        annotated: Boxes for the left copy.
        detected: Boxes for the right copy.

    Returns:
        A picture twice as wide, enlarged by `ZOOM`.
    """
    size = (image.width * ZOOM, image.height * ZOOM)
    pair = Image.new('RGB', (2 * size[0] + GAP, size[1]), 'white')
    for boxes, colour, left in ((annotated, ANNOTATED, 0), (detected, DETECTED, size[0] + GAP)):
        copy = image.convert('RGB').resize(size, Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(copy)
        for x, y, w, h in boxes:
            draw.rectangle([x * ZOOM, y * ZOOM, (x + w) * ZOOM, (y + h) * ZOOM], None, colour, 3)
        pair.paste(copy, (left, 0))
    return pair


def stack(pairs: Sequence[Image.Image], width: int = 1100) -> Image.Image:
    """Put pictures of :func:`draw_pair` under a heading, one below the other."""
    pairs = [pair.resize((width, round(pair.height * width / pair.width))) for pair in pairs]
    heading = 34
    height = heading + sum(pair.height + GAP for pair in pairs) - GAP
    page = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(page)
    for text, centre in (('annotated', width // 4), ('detected', 3 * width // 4)):
        draw.text((centre, heading // 2), text, 'black', ImageFont.load_default(20), anchor='mm')
    top = heading
    for pair in pairs:
        page.paste(pair, (0, top))
        top += pair.height + GAP
    return page


def draw_results(
    annotations: Path, images: Path, results: Path, folder: Path, *, score_thr: float, rows: int = 3
) -> list[Path]:
    """Write one picture an image and `overview.jpg`, of the images with the most annotations.

    Args:
        annotations: COCO annotation file.
        images: Folder of its images.
        results: Detections in COCO's result format (`CocoMetric`'s `*.bbox.json`).
        folder: Where to write.
        score_thr: Detections with a lower score are left out.
        rows: Images in the overview.

    Returns:
        The files written, the overview last.

    Raises:
        ValueError: If two images would be drawn into one file.
    """
    coco = json.loads(annotations.read_text())
    images_by_stem: dict[str, str] = {'overview': 'the overview'}
    for image in coco['images']:
        name, stem = image['file_name'], Path(image['file_name']).stem
        if stem in images_by_stem:
            raise ValueError(f'{images_by_stem[stem]} and {name} would both become {stem}.jpg')
        images_by_stem[stem] = name
    annotated: dict[int, list[Box]] = {image['id']: [] for image in coco['images']}
    detected: dict[int, list[Box]] = {image['id']: [] for image in coco['images']}
    for annotation in coco['annotations']:
        annotated[annotation['image_id']].append(annotation['bbox'])
    for result in json.loads(results.read_text()):
        if result['score'] >= score_thr:
            detected[result['image_id']].append(result['bbox'])

    folder.mkdir(parents=True, exist_ok=True)
    fullest = sorted(annotated, key=lambda image_id: -len(annotated[image_id]))[:rows]
    written, shown = [], []
    for image in coco['images']:
        name, image_id = image['file_name'], image['id']
        with Image.open(images / name) as photograph:
            pair = draw_pair(photograph, annotated[image_id], detected[image_id])
        written.append(folder / f'{Path(name).stem}.jpg')
        with replacing(written[-1]) as partial:
            pair.save(partial, quality=85)
        if image_id in fullest:
            shown.append(pair)
    written.append(folder / 'overview.jpg')
    with replacing(written[-1]) as partial:
        stack(shown).save(partial, quality=80)
    return written
