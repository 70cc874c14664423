"""Draw detections beside the annotations, one picture an image, and an overview.jpg of a few.

The detections are COCO results, as tools/test.py writes them to PREFIX.bbox.json with
`--cfg-options test_evaluator.outfile_prefix=PREFIX`.
"""

import argparse
import sys
from pathlib import Path

from mmcontnet.analysis.pictures import draw_results


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('annotations', type=Path, help='COCO annotation file')
    parser.add_argument('images', type=Path, help='folder of its images')
    parser.add_argument('results', type=Path, help='detections, *.bbox.json')
    parser.add_argument('folder', type=Path, help='where to put the pictures')
    parser.add_argument(
        '--score-thr', type=float, default=0.4, help='leave out lower scores (default: %(default)s)'
    )
    args = parser.parse_args()
    try:
        written = draw_results(
            args.annotations, args.images, args.results, args.folder, score_thr=args.score_thr
        )
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f'draw_detections.py: error: {error}')
    print(f'{len(written)} pictures in {args.folder}')


if __name__ == '__main__':
    main()
