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
from typing import Any

from mmcontnet.analysis import report
from mmcontnet.analysis.export import export_onnx
from mmcontnet.analysis.networks import NETWORK_HELP
from mmcontnet.engine import load_config
from mmcontnet.output import check_out


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = report.tool_parser(__doc__)
    option = parser.add_argument
    option('config', help=NETWORK_HELP)
    option('checkpoint', nargs='?', help='checkpoint file (default: random weights)')
    size: Any = dict(nargs=2, type=report.positive_int, metavar=('H', 'W'))
    option('--shape', required=True, help='size of the image in pixels', **size)
    option('--out', type=Path, required=True, help='.onnx file to write')
    return parser.parse_args()


def main() -> None:
    """Export, check, and say what the file takes and gives."""
    args = parse_args()
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    with report.quiet_tool('export_onnx.py'):
        check_out(args.out, ('.onnx',))
        check_out(args.out.with_suffix('.json'), ('.json',))
        print(f'exporting {args.config} (a minute or so) ...', file=sys.stderr)
        cfg = load_config(args.config)
        result = export_onnx(cfg, args.checkpoint, tuple(args.shape), args.out)
        source = dict(config=args.config, checkpoint=args.checkpoint)
        report.write_json(args.out.with_suffix('.json'), dict(**source, **result))
    tensors = [result['input'], *result['outputs']]
    rows = [[tensor['name'], ' x '.join(map(str, tensor['shape']))] for tensor in tensors]
    report.print_table(['tensor', 'shape'], rows)
    print(
        f'{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, opset {result["opset"]}, '
        f'largest difference to PyTorch {result["max_error"]:.1e}'
    )


if __name__ == '__main__':
    main()
