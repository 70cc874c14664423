"""Show where the attention of one pixel of an image goes: picture, table and JSON.

One panel a layer. The mean over the heads is drawn; the JSON holds the weights of every head.
"""

import argparse
from pathlib import Path

from mmcontnet.analysis import report
from mmcontnet.analysis.attention_map import attention_maps, plot_attention_maps
from mmcontnet.analysis.inspection import build_backbone, open_image, to_input
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.builders import network_errors
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = report.tool_parser(__doc__)
    parser.add_argument('image', type=Path, help='image file')
    parser.add_argument('config', help=NETWORK_HELP)
    parser.add_argument(
        'checkpoint', nargs='?', help='checkpoint of the whole model (default: random weights)'
    )
    parser.add_argument(
        '--pixel',
        nargs=2,
        type=int,
        metavar=('X', 'Y'),
        help='pixel of the image whose attention to show (default: the middle)',
    )
    parser.add_argument(
        '--size',
        type=report.positive_int,
        default=672,
        help='longer side in pixels to resize to (%(default)s)',
    )
    report.add_device_option(parser)
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('attention_map.png'),
        help='picture to write; the weights go into a .json beside it (default: %(default)s)',
    )
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Compute, draw, print and write."""
    report.check_out(args.out, report.PICTURES)
    device = report.check_device(args.device)
    image = open_image(args.image)
    cfg = load_config(args.config)
    x, y = args.pixel or (image.width // 2, image.height // 2)
    if not (0 <= x < image.width and 0 <= y < image.height):
        raise UserError(f'--pixel {x} {y} is outside of {image.width} x {image.height}')
    place = ((x + 0.5) / image.width, (y + 0.5) / image.height)
    scale = args.size / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size])
    backbone = build_backbone(cfg, args.checkpoint).to(device)
    with network_errors('the backbone'):
        maps = attention_maps(backbone, to_input(image, cfg).to(device), place)
    distances = [m.distance(place, image.size) for m in maps]
    with report.replacing(args.out) as partial:
        plot_attention_maps(image, place, maps, partial)
    layers = [
        dict(layer=m.layer, distance=distance, box=m.box, weights=m.weights.tolist())
        for m, distance in zip(maps, distances, strict=True)
    ]
    content = dict(image=str(args.image), pixel=[x, y], size=image.size, layers=layers)
    report.write_json(args.out.with_suffix('.json'), content)
    rows = [
        [m.layer, f'{m.weights.shape[1]} x {m.weights.shape[2]}', f'{distance:.0f} px']
        for m, distance in zip(maps, distances, strict=True)
    ]
    print(report.markdown_table(['layer', 'keys', 'mean distance'], rows))
    print(args.out)


def main() -> None:
    """Show the attention, or the mistake in one line."""
    args = parse_args()
    with report.quiet_tool('attention_map.py'):
        run(args)


if __name__ == '__main__':
    main()
