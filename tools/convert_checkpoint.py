"""Convert an author's checkpoint into one that mmpretrain, mmdet and mmseg load.

The family, the arch and its options are recognised from keys and shapes, and printed: your config's
backbone needs the same. (Of a ConTNet two things leave no trace in its tensors, so only you can
tell: pre_norm, and patch_sizes unless each patch has an encoding.)
Of a file that holds the weights and their EMA, the EMA is taken.

Use the result as
    init_cfg=dict(type='Pretrained', checkpoint=DST, prefix='backbone.')
in a detector's backbone, or as load_from of a classification config.
"""

import argparse
from pathlib import Path

from mmcontnet.analysis.report import tool_parser
from mmcontnet.errors import UserError, exit_on_user_error
from mmcontnet.output import check_out
from mmcontnet.weights import convert_checkpoint


def main() -> None:
    """Parse the command line and convert."""
    parser = tool_parser(__doc__)
    parser.add_argument('src', help="the authors' checkpoint")
    parser.add_argument('dst', help='file to write; .safetensors writes that format')
    parser.add_argument(
        '--ema',
        action=argparse.BooleanOptionalAction,
        help='take the EMA of the weights, or (--no-ema) the weights themselves; default: the EMA '
        'if there is one',
    )
    args = parser.parse_args()
    with exit_on_user_error('convert_checkpoint.py'):
        destination = Path(args.dst)
        check_out(destination.parent, option='DST')  # which is made
        if destination.parent.is_dir():
            check_out(destination, (destination.suffix.lower(),), 'DST')
        try:
            converted = convert_checkpoint(args.src, args.dst, args.ema)
        except OSError as error:
            raise UserError(str(error)) from error
    source = f', from {converted.entry!r}' if converted.entry else ''
    print(f'{args.dst}: {len(converted.state_dict)} tensors for {converted.backbone}{source}')


if __name__ == '__main__':
    main()
