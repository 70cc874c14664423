"""Class activation maps of stages, by the tools that people use for them."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from ..families import Family, every_family

cam = pytest.importorskip('pytorch_grad_cam')


class Classifier(nn.Module):
    """A backbone with two classes; what speaks for one speaks against the other."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.backbone = family()
        self.head = nn.Linear(family.channels[3], 1)

    def forward(self, x: Tensor) -> Tensor:
        score = self.head(self.backbone(x)[0].mean((2, 3)))
        return torch.cat([score, -score], dim=1)


@every_family
def test_grad_cam_of_a_stage_shows_what_speaks_for_a_class(family: Family) -> None:
    model = Classifier(family)
    targets = [cam.utils.model_targets.ClassifierOutputTarget(i) for i in range(2)]
    x = torch.randn(1, 3, 64, 96)
    for stage in model.backbone.stages:
        with cam.GradCAM(model, [stage]) as grad_cam:
            maps = [grad_cam(x, [target])[0] for target in targets]
        for found in maps:
            assert found.shape == (64, 96)
            assert np.isfinite(found).all()
        assert max(found.std() for found in maps) > 0.1
        assert not np.allclose(*maps, atol=0.1)


@every_family
def test_mmpretrains_tool_draws_the_map_of_a_stage(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apis, mmcv = pytest.importorskip('mmpretrain.apis'), pytest.importorskip('mmcv')
    monkeypatch.chdir(tmp_path)
    init_default_scope('mmpretrain')  # as in a process of its own, whatever ran here before
    model = dict(
        type='ImageClassifier',
        backbone=dict(type=f'mmcontnet.{family.type}', **family.kwargs),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=2, in_channels=family.channels[3]),
    )
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    dataset = dict(type='CustomDataset', pipeline=pipeline)
    cfg = Config(dict(model=model, test_dataloader=dict(dataset=dataset)))
    cfg.dump('config.py')
    state = apis.get_model(cfg).state_dict()
    state['head.fc.weight'][1] = -state['head.fc.weight'][0]  # as above
    torch.save(dict(state_dict=state), 'model.pth')
    mmcv.imwrite(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8), 'image.png')
    tool = Path(apis.__file__).parents[1] / '.mim/tools/visualization/vis_cam.py'
    command = ['image.png', 'config.py', 'model.pth', '--target-layers', 'backbone.stages.3']
    drawn = []
    for i in '01':
        options = ['--target-category', i, '--save-path', f'{i}.png']
        monkeypatch.setattr(sys, 'argv', ['vis_cam.py', *command, *options])
        runpy.run_path(str(tool), run_name='__main__')
        drawn.append(mmcv.imread(f'{i}.png'))
    assert drawn[0].shape == drawn[1].shape == (96, 128, 3)
    assert (drawn[0] != drawn[1]).any()
