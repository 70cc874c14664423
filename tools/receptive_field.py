"""Show the effective receptive fields of networks side by side: picture, table and JSON.

For each stage, the gradient of its units with respect to images, averaged over images and over
places within the networks' patches and windows; and the radius that holds 50, 80 and 95 % of it.
CHECKPOINT is one of the whole model; without, a network has random weights, and BatchNorm
statistics of the images.

  python tools/receptive_field.py configs/retinanet_cont_m_fpn_1x_coco.py \\
      mmdet::retinanet/retinanet_r50_fpn_1x_coco.py
"""

import argparse
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from rich.progress import track

from mmcontnet.analysis import report
from mmcontnet.analysis.inspection import (
    build_backbone,
    cut_square,
    estimate_norm_statistics,
    find_images,
    image_reader,
    to_input,
)
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.analysis.receptive_field import (
    PARTS,
    PICTURES,
    ReceptiveField,
    plot_receptive_fields,
    receptive_fields,
)
from mmcontnet.builders import network_errors
from mmcontnet.engine import import_datasets, load_config
from mmcontnet.output import check_out


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = report.tool_parser(__doc__)
    option = parser.add_argument
    number: Any = dict(type=report.positive_int)
    option('networks', nargs='+', metavar='CONFIG[=CHECKPOINT]', help=NETWORK_HELP)
    images = 'images, or folders of them (default: what tools/prepare_tree_crowns.py makes)'
    folder = [Path('data/tree_crowns/val')]
    option('--images', nargs='+', type=Path, default=folder, metavar='PATH', help=images)
    option('--count', default=16, help='images to take, again from the first if need be', **number)
    size = 'side in pixels to which images are cut; at best thrice the largest patch (672)'
    option('--size', default=672, help=size, **number)
    stages = "stages, the backbone's out_indices (default: 1 2 3)"
    option('--stages', nargs='+', type=int, default=[1, 2, 3], metavar='I', help=stages)
    report.add_device_option(parser)
    out = 'picture to write, with the numbers in a .json beside it (default: %(default)s)'
    option('--out', type=Path, default=Path('receptive_field.png'), help=out)
    return parser.parse_args()


def measure(
    cfg: Config, network: str, files: list[Path], args: argparse.Namespace
) -> list[ReceptiveField]:
    """Measure one network; the weights are random where it names no checkpoint."""
    checkpoint = network.partition('=')[2]
    torch.manual_seed(0)
    device = report.check_device(args.device)
    backbone = build_backbone(cfg, checkpoint or None, args.stages).to(device)
    import_datasets(cfg)
    read = image_reader(cfg)
    images = [to_input(cut_square(read(file), args.size), cfg).to(device) for file in files]
    images = list(islice(cycle(images), args.count))
    with network_errors(network):
        if not checkpoint:
            estimate_norm_statistics(backbone, images[:4])
        progress = track(images, description=f'{Path(network).name}:'.ljust(40))
        return receptive_fields(backbone, progress, args.count)


def main() -> None:
    """Measure, print and write."""
    args = parse_args()
    with report.quiet_tool('receptive_field.py'):
        check_out(args.out, PICTURES)
        check_out(args.out.with_suffix('.json'), ('.json',))
        files = find_images(args.images)[: args.count]
        configs = [load_config(network.partition('=')[0]) for network in args.networks]
        columns, results, rows = [], [], []
        for cfg, network in zip(configs, args.networks, strict=True):
            fields = measure(cfg, network, files, args)  # tells what is wrong with a config
            config, _, checkpoint = network.partition('=')
            title = f'{cfg.model.backbone.type}, {Path(checkpoint).name or "untrained"}'
            columns.append((f'{title}\n{Path(config).stem}', fields))
            for stage, field in zip(args.stages, fields, strict=True):
                radii = dict(zip(map(str, PARTS), field.radii, strict=True))
                results.append(dict(network=network, stage=stage, stride=field.stride, radii=radii))
                pixels = (f'{radius:.0f} px' for radius in field.radii)
                rows.append([network, str(stage), f'{field.stride:g}', *pixels])
        with report.replacing(args.out) as partial:
            plot_receptive_fields(columns, partial)
        content = dict(images=list(map(str, args.images)), count=args.count, size=args.size)
        report.write_json(args.out.with_suffix('.json'), dict(**content, results=results))
    report.print_table(['network', 'stage', 'stride', *(f'{p:.0%} within' for p in PARTS)], rows)
    print(args.out)


if __name__ == '__main__':
    main()
