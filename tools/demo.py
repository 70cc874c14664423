"""Draw what a network sees on images: boxes, masks, a segmentation or a class.

Beside each PICTURE, PICTURE.json lists what is drawn. For detections beside annotations, see
`tools/test.py --show-dir`.
"""

import argparse
from pathlib import Path

from rich.progress import track

from mmcontnet.analysis import report
from mmcontnet.analysis.inspection import SUFFIXES, find_images
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.analysis.prediction import Predictor, describe
from mmcontnet.engine import import_datasets, load_config
from mmcontnet.errors import UserError
from mmcontnet.output import check_out


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = report.tool_parser(__doc__)
    option = parser.add_argument
    option('image', type=Path, help='image, or folder of images')
    option('config', help=NETWORK_HELP)
    option('checkpoint', help='checkpoint file, or .onnx file of tools/export_onnx.py')
    out = 'picture to write, or folder if IMAGE is one (default: named as IMAGE, with _demo)'
    option('--out', type=Path, help=out)
    report.add_device_option(parser)
    score = 'leave out detections with lower scores (default: %(default)s)'
    option('--score-thr', type=float, default=0.3, help=score)
    return parser.parse_args()


def main() -> None:
    """Predict and draw, image by image."""
    args = parse_args()
    with report.quiet_tool('demo.py'):
        images = find_images([args.image])
        cfg = load_config(args.config)
        import_datasets(cfg)
        out = args.out or args.image.with_name(f'{args.image.stem}_demo{args.image.suffix}')
        if out.resolve() == args.image.resolve():
            raise UserError('--out must not be IMAGE itself')
        files = {image: out / image.name if args.image.is_dir() else out for image in images}
        if args.image.is_file():
            check_out(out, SUFFIXES)
            check_out(out.with_name(f'{out.name}.json'), ('.json',))
        else:
            check_out(out)
            out.mkdir(parents=True, exist_ok=True)
        device = report.check_device(args.device)
        predictor = Predictor(cfg, args.checkpoint, device, args.score_thr)
        rows = []
        for image, file in track(files.items(), description='Images'):
            seen, picture = predictor(image)
            with report.replacing(file) as partial:
                picture.save(partial)
            # After the whole name: a.jpg and a.png may lie in one folder.
            content = dict(image=str(image), predictions=seen)
            report.write_json(file.with_name(f'{file.name}.json'), content)
            rows.append([str(file), describe(seen)])
    report.print_table(['picture', 'seen'], rows)


if __name__ == '__main__':
    main()
