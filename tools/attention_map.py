"""Show where the attention of one pixel of a photograph goes: picture, table and JSON.

One panel a layer. The mean over the heads is drawn; the JSON holds the weights of every head.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from PIL import Image

from mmcontnet.analysis.attention_map import attention_maps, plot_attention_maps
from mmcontnet.analysis.inspection import build_backbone, find_images, to_input
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.analysis.report import (
    PICTURES,
    check_out,
    markdown_table,
    replacing,
    write_json,
)
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('image', type=Path, help='photograph')
    parser.add_argument('config', help=NETWORK_HELP)
    parser.add_argument(
        'checkpoint', nargs='?', help='checkpoint of the whole model (default: random weights)'
    )
    parser.add_argument(
        '--pixel',
        nargs=2,
        type=int,
        metavar=('X', 'Y'),
        help='pixel of the photograph whose attention to show (default: the middle)',
    )
    parser.add_argument(
        '--size', type=int, default=672, help='longer side in pixels to resize to (%(default)s)'
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('attention_map.png'),
        help='picture to write; the weights go into a .json beside it (default: %(default)s)',
    )
    args = parser.parse_args()
    if args.size < 1:
        parser.error(f'--size takes a positive number, got {args.size}')
    return args


def main() -> None:
    """Compute, draw, print and write."""
    args = parse_args()
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    try:
        check_out(args.out, PICTURES)
        if args.image.is_dir():
            raise UserError(f'IMAGE must be a file, and {str(args.image)!r} is a folder')
        (file,) = find_images([args.image])
        cfg = load_config(args.config)
        image = Image.open(file).convert('RGB')
        x, y = args.pixel or (image.width // 2, image.height // 2)
        if not (0 <= x < image.width and 0 <= y < image.height):
            raise UserError(f'--pixel {x} {y} is outside of {image.width} x {image.height}')
        place = ((x + 0.5) / image.width, (y + 0.5) / image.height)
        scale = args.size / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size])
        backbone = build_backbone(cfg, args.checkpoint).to(args.device)
        maps = attention_maps(backbone, to_input(image, cfg).to(args.device), place)
        with replacing(args.out) as partial:
            plot_attention_maps(image, place, maps, partial)
        layers = [
            dict(
                layer=m.layer,
                distance=m.distance(place, image.size),
                box=m.box,
                weights=m.weights.tolist(),
            )
            for m in maps
        ]
        result = dict(image=str(file), pixel=[x, y], size=image.size, layers=layers)
        write_json(args.out.with_suffix('.json'), result)
    except (UserError, OSError, RuntimeError, ValueError) as error:
        first_line = str(error).partition('\n')[0]
        sys.exit(f'attention_map.py: error: {first_line}')
    rows = [
        [m.layer, f'{m.weights.shape[1]} x {m.weights.shape[2]}', f'{layer["distance"]:.0f} px']
        for m, layer in zip(maps, layers, strict=True)
    ]
    print(markdown_table(['layer', 'keys', 'mean distance'], rows))
    print(args.out)


if __name__ == '__main__':
    main()
