"""Draw what a network sees on pictures: boxes, masks, a segmentation or a class.

Beside each PICTURE, PICTURE.json lists what is drawn. For detections beside annotations, see
tools/draw_detections.py and `tools/test.py --show-dir`.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from rich.progress import track

from mmcontnet.analysis.inspection import SUFFIXES, find_images
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.analysis.prediction import Predictor, describe
from mmcontnet.analysis.report import check_out, markdown_table, replacing, write_json
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('image', type=Path, help='image, or folder of images')
    parser.add_argument('config', help=NETWORK_HELP)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        type=Path,
        help='picture to write, or folder if IMAGE is one (default: named as IMAGE, with _demo)',
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='leave out lower scores (default: %(default)s)'
    )
    return parser.parse_args()


def main() -> None:
    """Predict and draw, image by image."""
    args = parse_args()
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    rows: list[list[str]] = []
    try:
        images = find_images([args.image])
        cfg = load_config(args.config)
        out = args.out or args.image.with_name(f'{args.image.stem}_demo{args.image.suffix}')
        if out.resolve() == args.image.resolve():
            raise UserError('--out must not be IMAGE itself')
        if args.image.is_file():
            check_out(out, SUFFIXES)
        else:
            out.mkdir(exist_ok=True)
        predictor = Predictor(cfg, args.checkpoint, args.device, args.score_thr)
        for image in track(images, description='Pictures'):
            picture = out / image.name if args.image.is_dir() else out
            with replacing(picture) as partial:
                seen = predictor(image, partial)
            # After the whole name: a.jpg and a.png may lie in one folder.
            description = picture.with_name(f'{picture.name}.json')
            write_json(description, dict(image=str(image), predictions=seen))
            rows.append([str(picture), describe(seen)])
    except (UserError, OSError, RuntimeError, ValueError) as error:
        first_line = str(error).partition('\n')[0]
        sys.exit(f'demo.py: error: {first_line}')
    print(markdown_table(['picture', 'seen'], rows))


if __name__ == '__main__':
    main()
