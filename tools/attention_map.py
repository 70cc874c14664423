"""Show where the attention of one pixel of an image goes: picture, table and JSON.

One panel a layer. The mean over the heads is drawn; the JSON holds the weights of every head.
"""

import argparse
from pathlib import Path

from mmcontnet.analysis import report
from mmcontnet.analysis.attention_map import attention_maps, plot_attention_maps
from mmcontnet.analysis.inspection import build_backbone, to_input
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.builders import network_errors
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError
from mmcontnet.images import open_image


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = report.tool_parser(__doc__)
    option = parser.add_argument
    option('image', type=Path, help='image file')
    option('config', help=NETWORK_HELP)
    checkpoint = 'checkpoint of the whole model (default: random weights)'
    option('checkpoint', nargs='?', help=checkpoint)
    pixel = 'pixel of the image whose attention to show (default: the middle)'
    option('--pixel', nargs=2, type=int, metavar=('X', 'Y'), help=pixel)
    size = 'longer side in pixels to resize to (default: %(default)s)'
    option('--size', type=report.positive_int, default=672, help=size)
    report.add_device_option(parser)
    out = 'picture to write, with the weights in a .json beside it (default: %(default)s)'
    option('--out', type=Path, default=Path('attention_map.png'), help=out)
    return parser.parse_args()


def main() -> None:
    """Compute, draw, print and write."""
    args = parse_args()
    with report.quiet_tool('attention_map.py'):
        report.check_out(args.out, report.PICTURES)
        device, cfg = report.check_device(args.device), load_config(args.config)
        image = open_image(args.image)
        x, y = args.pixel or (image.width // 2, image.height // 2)
        if not (0 <= x < image.width and 0 <= y < image.height):
            raise UserError(f'--pixel {x} {y} is outside of {image.width} x {image.height}')
        place = ((x + 0.5) / image.width, (y + 0.5) / image.height)
        scale = args.size / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size])
        backbone = build_backbone(cfg, args.checkpoint).to(device)
        with network_errors('the backbone'):
            maps = attention_maps(backbone, to_input(image, cfg).to(device), place)
        with report.replacing(args.out) as partial:
            plot_attention_maps(image, place, maps, partial)
        layers, rows = [], []
        for m in maps:
            distance = m.distance(place, image.size)
            layers.append(
                dict(layer=m.layer, distance=distance, box=m.box, weights=m.weights.tolist())
            )
            keys = f'{m.weights.shape[1]} x {m.weights.shape[2]}'
            rows.append([m.layer, keys, f'{distance:.0f} px'])
        content = dict(image=str(args.image), pixel=[x, y], size=image.size, layers=layers)
        report.write_json(args.out.with_suffix('.json'), content)
    print(report.markdown_table(['layer', 'keys', 'mean distance'], rows), args.out, sep='\n')


if __name__ == '__main__':
    main()
