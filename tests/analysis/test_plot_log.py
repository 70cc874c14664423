"""tools/plot_log.py: losses and metrics from the logs that mmengine's visualiser writes."""

import json
import runpy
from pathlib import Path

import pytest
from PIL import Image

from ..inprocess import run_tool
from ..integration.cli import ROOT

read_curves = runpy.run_path(str(ROOT / 'tools/plot_log.py'))['read_curves']


def log(work_dir: Path, started: str, records: list[dict], tail: str = '') -> None:
    """Write the log of one start of a run."""
    folder = work_dir / started / 'vis_data'
    folder.mkdir(parents=True)
    lines = ''.join(json.dumps(record) + '\n' for record in records)
    (folder / 'scalars.json').write_text(lines + tail)


def train(step: int, loss: float = 1.0) -> dict:
    return dict(lr=1e-3, loss=loss, loss_cls=loss / 2, step=step)


def val(step: int, value: float) -> dict:
    return {'coco/bbox_mAP': value, 'coco/bbox_mAP_50': 2 * value, 'step': step}


def test_a_resumed_run_is_one_curve_in_which_the_later_start_counts(tmp_path: Path) -> None:
    log(tmp_path, '20260101_000000', [train(10), train(20), val(20, 0.1), train(30, 9.0)])
    log(tmp_path, '20260102_000000', [train(30, 0.5), train(40, 0.4), val(40, 0.2)])
    losses, metrics = read_curves(tmp_path)
    assert losses['loss'] == [(10, 1.0), (20, 1.0), (30, 0.5), (40, 0.4)]
    assert losses['loss_cls'][-1] == (40, 0.2)
    assert metrics['coco/bbox_mAP'] == [(20, 0.1), (40, 0.2)]


@pytest.mark.parametrize('steps', [(1, 2), (0, 0)])
def test_validation_in_epochs_or_without_a_step_is_placed_at_its_iteration(
    tmp_path: Path, steps: tuple[int, int]
) -> None:
    log(tmp_path, '1', [train(50), val(steps[0], 0.1), train(100), val(steps[1], 0.2)])
    assert read_curves(tmp_path)[1]['coco/bbox_mAP_50'] == [(50, 0.2), (100, 0.4)]


def test_the_half_written_last_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    log(tmp_path, '1', [train(10)], tail='{"lr": 0.001, "lo')
    log(tmp_path, '2', [], tail='{"lr": 0.0')
    assert read_curves(tmp_path)[0]['loss'] == [(10, 1.0)]


@pytest.mark.parametrize('records', [[train(10), train(20, 0.5), val(20, 0.1)], [train(10)]])
def test_the_tool_draws_two_panels(
    records: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(tmp_path, '1', records)
    assert run_tool(monkeypatch, 'plot_log.py', tmp_path) is None
    assert Image.open(tmp_path / 'curves.png').size == (1080, 432)
