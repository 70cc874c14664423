"""Class activation maps of stages, by the tools that people use for them."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..families import Family, every_family

pytest.importorskip('pytorch_grad_cam')


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
    # What speaks for one class speaks against the other.
    state['head.fc.weight'][1] = -state['head.fc.weight'][0]
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
