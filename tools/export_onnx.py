"""Write a whole network as ONNX for images of a fixed size, and check it with onnxruntime.

The file takes an image as it leaves the resize step of the test pipeline, (1, 3, H, W) in 0-255
with the channels as they are loaded, and needs nothing of OpenMMLab. Classifiers return scores,
segmenters labels and logits, RetinaNet, FCOS, Faster, Mask and Cascade R-CNN boxes, scores, labels
and masks. A .json file beside says more. `tools/test.py CONFIG FILE.onnx` evaluates it. Needs the
packages of this project's extra `export`.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmcontnet.analysis import report
from mmcontnet.analysis.export import export_onnx
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError
from mmcontnet.output import check_out


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = report.tool_parser(__doc__)
    option = parser.add_argument
    option('config', help=NETWORK_HELP)
    option('checkpoint', nargs='?', help='checkpoint file (default: random weights)')
    size: Any = dict(nargs=2, type=report.positive_int, metavar=('H', 'W'))
    shape = 'size of the image in pixels; given several times, each size is a file, OUT_HxW.onnx'
    option('--shape', required=True, action='append', help=shape, **size)
    raw = 'write logits, or backbone and neck of a detector, for images that are normalised'
    option('--raw', action='store_true', help=raw)
    option('--uint8', action='store_true', help='take pixels as uint8 (default: float32)')
    batch = 'take any number of images: classifiers, segmenters, and all with --raw'
    option('--dynamic-batch', action='store_true', help=batch)
    option('--out', type=Path, required=True, help='.onnx file to write')
    return parser.parse_args()


def main() -> None:
    """Export, check, and say what the file takes and gives."""
    args = parse_args()
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    files = {tuple(shape): args.out for shape in args.shape}
    if len(files) > 1:
        files = {(h, w): args.out.with_stem(f'{args.out.stem}_{h}x{w}') for h, w in files}
    with report.quiet_tool('export_onnx.py'):
        if args.raw and args.uint8:
            raise UserError('--uint8 is for whole networks: with --raw, images are normalised')
        for out in files.values():
            check_out(out, ('.onnx',))
            check_out(out.with_suffix('.json'), ('.json',))
        cfg = load_config(args.config)
        for shape, out in files.items():
            export(cfg, shape, out, args)


def export(cfg: Config, shape: tuple[int, int], out: Path, args: argparse.Namespace) -> None:
    """Write one file, and say what it takes and gives."""
    print(f'exporting {args.config} (a minute or so) ...', file=sys.stderr)
    result = export_onnx(
        cfg,
        args.checkpoint,
        shape,
        out,
        raw=args.raw,
        dtype=torch.uint8 if args.uint8 else torch.float32,
        dynamic_batch=args.dynamic_batch,
    )
    source = dict(config=args.config, checkpoint=args.checkpoint)
    report.write_json(out.with_suffix('.json'), dict(**source, **result))
    tensors = [result['input'], *result['outputs']]
    rows = [[tensor['name'], ' x '.join(map(str, tensor['shape']))] for tensor in tensors]
    report.print_table(['tensor', 'shape'], rows)
    print(
        f'{out}: {out.stat().st_size / 1e6:.1f} MB, opset {result["opset"]}, '
        f'largest difference to PyTorch {result["max_error"]:.1e}'
    )
    print('The size is fixed: padding, windows and position encodings depend on it.')


if __name__ == '__main__':
    main()
