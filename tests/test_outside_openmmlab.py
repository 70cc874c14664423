"""The code of docs/outside_openmmlab.md: torchvision's detectors, a training loop, Lightning."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcontnet import create_backbone

PAGE = Path(__file__).parents[1] / 'docs/outside_openmmlab.md'


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom_and_its_detectors_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    page: dict[str, Any] = {}
    for block in re.findall(r'```python\n(.+?)```', PAGE.read_text(), re.DOTALL):
        exec(block, page)
    assert len(page['history']) == 6
    assert sum(page['history'][-2:]) < 0.9 * sum(page['history'][:2])
    assert page['found']['boxes'].shape[1:] == (4,)
    assert page['trainer'].global_step == 2

    model = page['faster_rcnn'].train()
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 16  # others take a CPU long
    sum(model(*page['collate']([page['Squares']()[0]])).values()).backward()
    assert all(p.grad is not None for p in model.backbone.parameters())

    backbone = page['retinanet'].backbone.backbone
    torch.save(backbone.state_dict(), 'backbone.pth')
    stages = dict(downsample='pool', out_indices=(1, 2, 3))
    loaded = create_backbone('cont_ti', checkpoint='backbone.pth', **stages)
    pairs = zip(loaded.parameters(), backbone.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert list(tmp_path.iterdir()) == [tmp_path / 'backbone.pth']
