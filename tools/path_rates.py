"""Plot how much ACmix's layers rely on attention and on convolution, from checkpoints."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from mmcontnet.analysis.path_rates import plot_path_rates, read_path_rates
from mmcontnet.analysis.report import PICTURES, check_out, markdown_table, write_json
from mmcontnet.errors import UserError


def main() -> None:
    """Read the command line, print a table for each checkpoint, and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__ + ' Of parallel trainings, give all: each is a line of the plot.'
    )
    parser.add_argument(
        'checkpoints', nargs='+', help="of a training, converted, or the authors'", metavar='FILE'
    )
    parser.add_argument('--out', type=Path, default=Path('path_rates.png'), help='picture to write')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the rates')
    args = parser.parse_args()
    try:
        check_out(args.out, PICTURES)
        if args.json:
            check_out(args.json, ('.json',), '--json')
        rates = {checkpoint: read_path_rates(checkpoint) for checkpoint in args.checkpoints}
        for checkpoint, of in rates.items():
            columns = zip(of.layers, of.attention, of.convolution, strict=True)
            rows = [[layer, f'{alpha:.3f}', f'{beta:.3f}'] for layer, alpha, beta in columns]
            print(f'{checkpoint}:', markdown_table(['layer', 'alpha', 'beta'], rows), sep='\n')
        plot_path_rates(rates, args.out)
        if args.json:
            write_json(args.json, {name: asdict(of) for name, of in rates.items()})
    except (UserError, OSError) as error:
        sys.exit(f'path_rates.py: error: {error}')
    print(args.out)


if __name__ == '__main__':
    main()
