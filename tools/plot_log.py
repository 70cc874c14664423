"""Plot the loss and the validation metrics of a training run, over all its resumes."""

import json
from contextlib import suppress
from pathlib import Path

from matplotlib.figure import Figure

from mmcontnet.analysis import report
from mmcontnet.errors import UserError

#: Validation figures worth a curve; a log may name them after a prefix, as in `coco/bbox_mAP`.
METRICS = ('bbox_mAP', 'bbox_mAP_50', 'segm_mAP', 'mIoU', 'accuracy/top1')

Curves = dict[str, list[tuple[int, float]]]


def read_curves(work_dir: Path) -> tuple[Curves, Curves]:
    """Read losses and metrics of a work dir's `<timestamp>/vis_data/scalars.json`, by iteration.

    A resumed run repeats the iterations since its checkpoint: of each iteration the last counts.
    """
    losses: dict[str, dict[int, float]] = {}
    metrics: dict[str, dict[int, float]] = {}
    step = 0
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            record = {}
            with suppress(json.JSONDecodeError):  # the last line of a run that was killed
                record = json.loads(line)
            if 'loss' in record:
                step = record['step']
            # mmengine counts validation in epochs, or not at all: it belongs to the last iteration.
            for key, value in record.items():
                if 'loss' in record and key.rpartition('/')[2].startswith('loss'):
                    losses.setdefault(key, {})[step] = value
                elif 'loss' not in record and key.endswith(METRICS):
                    metrics.setdefault(key, {})[step] = value
    if not losses:
        raise UserError(f'no training log under {work_dir}')
    return _sorted(losses), _sorted(metrics)


def _sorted(values: dict[str, dict[int, float]]) -> Curves:
    return {key: sorted(points.items()) for key, points in sorted(values.items())}


def plot(losses: Curves, metrics: Curves, picture: Path) -> None:
    """Draw losses on the left and metrics, with their last values, on the right."""
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    left, right = figure.subplots(1, 2)
    for key, points in losses.items():
        left.plot(*zip(*points, strict=True), label=key, linewidth=2 if key == 'loss' else 1)
    for key, points in metrics.items():
        name = f'{key.partition("/")[2] or key}: {points[-1][1]:.3f}'
        right.plot(*zip(*points, strict=True), label=name, marker='o')
    left.set(title='training loss', xlabel='iteration')
    right.set(title='validation', xlabel='iteration', xlim=left.get_xlim())
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    with report.replacing(picture) as partial:
        figure.savefig(partial, dpi=120)


def main() -> None:
    """Read the command line and plot."""
    parser = report.tool_parser(__doc__)
    parser.add_argument('work_dir', type=Path, help='folder of the run, as given to tools/train.py')
    parser.add_argument('--out', type=Path, help='picture to write (default: WORK_DIR/curves.png)')
    args = parser.parse_args()
    picture = args.out or args.work_dir / 'curves.png'
    with report.quiet_tool('plot_log.py'):
        report.check_out(picture, report.PICTURES)
        plot(*read_curves(args.work_dir), picture)
    print(picture)


if __name__ == '__main__':
    main()
