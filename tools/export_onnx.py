"""Write a network as ONNX for images of a fixed size, and check it with onnxruntime.

Of a classifier or a segmenter that is the whole network, up to its logits; of a detector, backbone
and neck: full detectors go through mmdeploy (onedl-mmdeploy), with the backbone imported by
`custom_imports`. The image is expected normalised as the data preprocessor does; a .json file
beside says how. Needs the packages of this project's extra `export`.
"""

import argparse
import logging
import sys
from pathlib import Path

from mmengine.logging import MMLogger

from mmcontnet.analysis.export import export_onnx
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.analysis.report import markdown_table, write_json
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help=NETWORK_HELP)
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file (default: random weights)')
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        required=True,
        metavar=('H', 'W'),
        help='size of the image in pixels',
    )
    parser.add_argument('--out', type=Path, required=True, help='.onnx file to write')
    args = parser.parse_args()
    if args.out.suffix != '.onnx':
        parser.error(f'--out must be an .onnx file, got {str(args.out)!r}')
    if min(args.shape) < 1:
        parser.error(f'--shape takes positive numbers, got {args.shape[0]} {args.shape[1]}')
    if not args.out.resolve().parent.is_dir():
        parser.error(f'--out: no folder {str(args.out.parent)!r}')
    return args


def main() -> None:
    """Export, check, and say what the file takes and gives."""
    args = parse_args()
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    print(f'exporting {args.config} (a minute or so) ...', file=sys.stderr)
    try:
        cfg = load_config(args.config)
        result = export_onnx(cfg, args.checkpoint, tuple(args.shape), args.out)
        source = dict(config=args.config, checkpoint=args.checkpoint)
        write_json(args.out.with_suffix('.json'), dict(**source, **result))
    except (UserError, OSError) as error:
        sys.exit(f'export_onnx.py: error: {error}')
    tensors = [result['input'], *result['outputs']]
    rows = [[tensor['name'], ' x '.join(map(str, tensor['shape']))] for tensor in tensors]
    print(markdown_table(['tensor', 'shape'], rows))
    print(
        f'{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, opset {result["opset"]}, '
        f'largest difference to PyTorch {result["max_error"]:.1e}'
    )


if __name__ == '__main__':
    main()
