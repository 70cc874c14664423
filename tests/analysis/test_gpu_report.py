import json
from pathlib import Path

import pytest

from ..preparation import load_tool


def test_the_cpu_form_runs_every_part_and_tells_what_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = load_tool('gpu_report')
    monkeypatch.setattr(tool, 'DETECTORS', ['retinanet_cont_ti_fpn_1000i_tree_crowns.py'])
    monkeypatch.setattr(tool, 'COMPILED', ['cont_ti'])
    parts = ('aggregation', 'detectors', 'attention')
    out = tmp_path / 'report.json'
    monkeypatch.setattr(
        'sys.argv', ['gpu_report.py', '--device', 'cpu', '--out', str(out), '--parts', *parts]
    )
    tool.main()
    found = json.loads(out.read_text())['parts']
    assert list(found) == list(parts)
    # Triton measures on a GPU alone.
    assert found['aggregation']['rows'] == [] and len(found['aggregation']['failures']) == 8
    assert {row['dtype'] for row in found['detectors']['rows']} == {'bf16', 'fp32'}
    assert all(row['train']['seconds'] > 0 for row in found['detectors']['rows'])
    assert {row['kernel'] for row in found['attention']['rows']} == {'flash_attention_for_cpu'}
    page = out.with_suffix('.md').read_text()
    assert '## aggregation\n\n1: ' in page and '| cont_ti' in page
