"""Plot how much ACmix's layers rely on attention and on convolution, from checkpoints.

Of parallel trainings, give all: each is a line of the plot.
"""

from dataclasses import asdict
from pathlib import Path

from mmcontnet.analysis import report
from mmcontnet.analysis.path_rates import plot_path_rates, read_path_rates


def main() -> None:
    """Read the command line, print a table for each checkpoint, and plot."""
    parser = report.tool_parser(__doc__)
    parser.add_argument(
        'checkpoints', nargs='+', help="of a training, converted, or the authors'", metavar='FILE'
    )
    parser.add_argument('--out', type=Path, default=Path('path_rates.png'), help='picture to write')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the rates')
    args = parser.parse_args()
    with report.quiet_tool('path_rates.py'):
        report.check_out(args.out, report.PICTURES)
        if args.json:
            report.check_out(args.json, ('.json',), '--json')
        rates = {checkpoint: read_path_rates(checkpoint) for checkpoint in args.checkpoints}
        for checkpoint, of in rates.items():
            columns = zip(of.layers, of.attention, of.convolution, strict=True)
            rows = [[layer, f'{alpha:.3f}', f'{beta:.3f}'] for layer, alpha, beta in columns]
            print(
                f'{checkpoint}:', report.markdown_table(['layer', 'alpha', 'beta'], rows), sep='\n'
            )
        plot_path_rates(rates, args.out)
        if args.json:
            report.write_json(args.json, {name: asdict(of) for name, of in rates.items()})
        print(args.out)


if __name__ == '__main__':
    main()
