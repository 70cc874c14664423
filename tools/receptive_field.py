"""Show the effective receptive fields of networks side by side: picture, table and JSON.

For each stage, the gradient of its units with respect to photographs, averaged over photographs and
over places within the networks' patches and windows; and the radius that holds 50, 80 and 95 % of
it. A network without a checkpoint has random weights, and BatchNorm statistics of the photographs.

  python tools/receptive_field.py configs/retinanet_cont_m_fpn_1x_coco.py \\
      mmdet::retinanet/retinanet_r50_fpn_1x_coco.py
"""

import argparse
import logging
import sys
from itertools import cycle, islice
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from PIL import Image, ImageOps
from rich.progress import track

from mmcontnet.analysis.inspection import (
    build_backbone,
    estimate_norm_statistics,
    find_images,
    to_input,
)
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.analysis.receptive_field import (
    PARTS,
    ReceptiveField,
    plot_receptive_fields,
    receptive_fields,
)
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
    parser.add_argument(
        'networks',
        nargs='+',
        metavar='CONFIG[=CHECKPOINT]',
        help=f'{NETWORK_HELP}; a checkpoint is one of the whole model',
    )
    parser.add_argument(
        '--images',
        nargs='+',
        type=Path,
        default=[Path('data/tree_crowns/val')],
        metavar='PATH',
        help='photographs, or folders of them (default: %(default)s, '
        'which tools/prepare_tree_crowns.py makes)',
    )
    parser.add_argument(
        '--count', type=int, default=16, help='how many to take, again from the first if need be'
    )
    parser.add_argument(
        '--size',
        type=int,
        default=672,
        help='side in pixels to which they are cut; thrice the period of the largest patches, '
        'which is 224 in ConTNet and Swin (default: %(default)s)',
    )
    parser.add_argument(
        '--stages',
        nargs='+',
        type=int,
        default=[1, 2, 3],
        metavar='I',
        help="stages, the backbone's out_indices (default: 1 2 3)",
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('receptive_field.png'),
        help='picture to write; the numbers go into a .json beside it (default: %(default)s)',
    )
    args = parser.parse_args()
    for name in ('count', 'size'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} takes a positive number, got {getattr(args, name)}')
    return args


def title(cfg: Config, network: str) -> str:
    """Name a network by its backbone, its config and its weights."""
    config, _, checkpoint = network.partition('=')
    backbone = cfg.model.backbone
    variant = backbone.get('arch', backbone.get('depth', ''))
    name = f'{backbone.type} {variant}' if isinstance(variant, str | int) else backbone.type
    return f'{name}, {Path(checkpoint).name or "untrained"}\n{Path(config).stem}'


def measure(cfg: Config, network: str, args: argparse.Namespace) -> list[ReceptiveField]:
    """Measure one network; the weights are random where it names no checkpoint."""
    checkpoint = network.partition('=')[2]
    torch.manual_seed(0)
    backbone = build_backbone(cfg, checkpoint or None, args.stages).to(args.device)
    files = islice(cycle(find_images(args.images)), args.count)
    images = [
        to_input(ImageOps.fit(Image.open(file).convert('RGB'), (args.size, args.size)), cfg)
        for file in files
    ]
    images = [image.to(args.device) for image in images]
    if not checkpoint:
        estimate_norm_statistics(backbone, images[:4])
    progress = track(images, description=f'{Path(network).name}:'.ljust(40))
    return receptive_fields(backbone, progress, args.count)


def main() -> None:
    """Measure, print and write."""
    args = parse_args()
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    networks: list[tuple[str, list[ReceptiveField]]] = []
    try:
        check_out(args.out, PICTURES)
        find_images(args.images)
        configs = [load_config(network.partition('=')[0]) for network in args.networks]
        for cfg, network in zip(configs, args.networks, strict=True):
            networks.append((title(cfg, network), measure(cfg, network, args)))
        with replacing(args.out) as partial:
            plot_receptive_fields(networks, partial)
        results = [
            dict(
                network=network,
                stage=stage,
                stride=field.stride,
                radii={str(part): radius for part, radius in zip(PARTS, field.radii, strict=True)},
            )
            for network, (_, fields) in zip(args.networks, networks, strict=True)
            for stage, field in zip(args.stages, fields, strict=True)
        ]
        settings = dict(images=[str(path) for path in args.images], count=args.count)
        write_json(args.out.with_suffix('.json'), dict(**settings, size=args.size, results=results))
    except (UserError, OSError, RuntimeError, ValueError) as error:
        first_line = str(error).partition('\n')[0]
        sys.exit(f'receptive_field.py: error: {first_line}')
    header = ['network', 'stage', 'stride', *(f'{part:.0%} within' for part in PARTS)]
    rows = [
        [
            r['network'],
            str(r['stage']),
            f'{r["stride"]:g}',
            *(f'{x:.0f} px' for x in r['radii'].values()),
        ]
        for r in results
    ]
    print(markdown_table(header, rows))
    print(args.out)


if __name__ == '__main__':
    main()
