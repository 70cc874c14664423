"""Plot the loss and the validation metrics of a training run, over all its resumes."""

import argparse
import sys
from pathlib import Path

from mmcontnet.analysis.curves import plot_curves
from mmcontnet.analysis.report import PICTURES, check_out
from mmcontnet.errors import UserError


def main() -> None:
    """Read the command line and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='folder of the run, as given to tools/train.py')
    parser.add_argument('--out', type=Path, help='picture to write (default: WORK_DIR/curves.png)')
    args = parser.parse_args()
    picture = args.out or args.work_dir / 'curves.png'
    try:
        check_out(picture, PICTURES)
        plot_curves(args.work_dir, picture)
    except (UserError, OSError, ValueError) as error:
        sys.exit(f'plot_log.py: error: {error}')
    print(picture)


if __name__ == '__main__':
    main()
