"""Loss and metric curves from the logs of a training run."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .report import replacing

#: Validation figures worth a curve; a log may name them after a prefix, as in `coco/bbox_mAP`.
METRICS = ('bbox_mAP', 'bbox_mAP_50', 'segm_mAP', 'mIoU', 'accuracy/top1')

Record = dict[str, Any]


def read_scalars(work_dir: Path) -> list[Record]:
    """Read what mmengine logged in a work dir, as one history.

    A run that was interrupted and resumed has one log a start. A later one repeats the iterations
    since the last checkpoint; its records replace the earlier ones of those iterations.

    Args:
        work_dir: The folder of the run, which holds `<timestamp>/vis_data/scalars.json`.

    Returns:
        Records of training and validation, with `step` in iterations.
    """
    history: list[Record] = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        records: list[Record] = []
        for line in path.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # the last line of a run that was killed
                records.append(json.loads(line))
        first = next((r['step'] for r in records if 'loss' in r), math.inf)
        history = [r for r in history if r['step'] < first]
        # A start may begin with a validation, of what was trained before it.
        iteration = history[-1]['step'] if history else 0
        for record in records:
            if 'loss' in record:
                iteration = record['step']
            else:  # by default mmengine counts validation in epochs, or it is always 0
                record['step'] = iteration
        history += records
    return history


def plot_curves(work_dir: Path, picture: Path) -> None:
    """Plot losses and validation metrics of a run against its iterations.

    Args:
        work_dir: See :func:`read_scalars`.
        picture: File to write; its suffix says the format.

    Raises:
        ValueError: If nothing is logged there.
    """
    history = read_scalars(work_dir)
    training = [r for r in history if 'loss' in r]
    validation = [r for r in history if 'loss' not in r]
    if not training:
        raise ValueError(f'no training log under {work_dir}')
    losses = sorted(
        {key for r in training for key in r if key.rpartition('/')[2].startswith('loss')}
    )
    metrics = sorted({key for r in validation for key in r if key.endswith(tuple(METRICS))})

    figure = Figure(figsize=(9, 3.6), layout='constrained')
    left, right = figure.subplots(1, 2)
    for key in losses:
        points = [(r['step'], r[key]) for r in training if key in r]
        left.plot(*zip(*points, strict=True), label=key, linewidth=2 if key == 'loss' else 1)
    for key in metrics:
        points = [(r['step'], r[key]) for r in validation if key in r]
        right.plot(*zip(*points, strict=True), label=key.partition('/')[2] or key, marker='o')
        right.annotate(
            f'{points[-1][1]:.3f}',
            points[-1],
            xytext=(0, 6),
            textcoords='offset points',
            ha='right',
        )
    left.set(title='training loss', xlabel='iteration')
    right.set(title='validation', xlabel='iteration', xlim=left.get_xlim())
    for axes in (left, right):
        axes.margins(y=0.12)  # room for the last values
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    with replacing(picture) as partial:
        figure.savefig(partial, dpi=120)
