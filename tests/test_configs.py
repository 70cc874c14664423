"""Every config builds its full network, and takes a training and a prediction step."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from mmcontnet.engine import load_config

CONFIGS = Path(__file__).parents[1] / 'configs'


def batch(cfg: Config) -> dict:
    """Make two small images with annotations, sides no patch divides, in the scope's own form."""
    if cfg.default_scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        data = demo_mm_inputs(2, [[3, 90, 120], [3, 128, 70]], num_classes=80)
        for sample in data['data_samples']:
            sample.gt_instances.labels %= cfg.model.bbox_head.num_classes
        return data
    assert cfg.default_scope == 'mmpretrain'
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(label) for label in (3, 999)]
    return dict(inputs=torch.randint(256, (2, 3, 70, 96), dtype=torch.uint8), data_samples=samples)


@pytest.mark.parametrize('config', sorted(path.name for path in CONFIGS.glob('*.py')))
def test_config_builds_and_takes_a_training_and_a_prediction_step(config: str) -> None:
    cfg = load_config(str(CONFIGS / config))
    cfg.model.backbone.init_cfg = None
    scope = DefaultScope.get_current_instance()
    init_default_scope(cfg.default_scope)
    try:
        if cfg.default_scope == 'mmpretrain':
            cfg.model.data_preprocessor = dict(type='ClsDataPreprocessor', **cfg.data_preprocessor)
        model = MODELS.build(cfg.model)
        model.init_weights()
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        data = batch(cfg)
        processed = model.train().data_preprocessor(data, training=True)
        loss, _ = model.parse_losses(model(**processed, mode='loss'))
        assert loss.isfinite()
        loss.backward()
        # What is not frozen has a gradient, so DDP needs no search for unused parameters.
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        optim_wrapper.step()
        predictions = model.eval().test_step(data)
        assert len(predictions) == 2
    finally:
        if scope is not None:
            init_default_scope(scope.scope_name)
