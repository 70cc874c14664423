"""Every config builds its full network, and takes a training and a prediction step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv import imwrite, rescale_size
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from mmcontnet.engine import load_config

CONFIGS = Path(__file__).parents[1] / 'configs'


def batch(cfg: Config) -> dict:
    """Make two small images with annotations, sides no patch divides, in the scope's own form."""
    if cfg.default_scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        head = cfg.model.get('bbox_head') or cfg.model.roi_head.bbox_head
        data = demo_mm_inputs(2, [[3, 90, 110], [3, 112, 70]], num_classes=80, with_mask=True)
        for sample in data['data_samples']:
            sample.gt_instances.labels %= head.num_classes
        return data
    if cfg.default_scope == 'mmseg':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        inputs = list(torch.randint(256, (2, 3, 90, 110), dtype=torch.uint8))
        labels = torch.randint(cfg.model.decode_head.num_classes, (2, 1, 90, 110))
        samples = []
        for label in labels:
            sizes = dict(ori_shape=(90, 110), img_shape=(90, 110))
            samples.append(SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=sizes))
        return dict(inputs=inputs, data_samples=samples)
    assert cfg.default_scope == 'mmpretrain'
    from mmpretrain.structures import DataSample

    last = cfg.model.head.num_classes - 1
    samples = [DataSample().set_gt_label(label) for label in (0, last)]
    return dict(inputs=torch.randint(256, (2, 3, 70, 96), dtype=torch.uint8), data_samples=samples)


def shrink(cfg: Config) -> None:
    """Leave the network as it is, and take what surrounds it to the size of ``batch``."""
    if cfg.default_scope == 'mmpretrain':
        cfg.model.data_preprocessor = dict(type='ClsDataPreprocessor', **cfg.data_preprocessor)
    if cfg.model.get('roi_head'):
        cfg.model.train_cfg.rcnn.sampler.num = 32
        cfg.model.test_cfg.rpn.max_per_img = 32
    if cfg.default_scope == 'mmseg':
        if cfg.model.data_preprocessor.get('size'):
            cfg.model.data_preprocessor.size = (112, 112)
        if cfg.model.test_cfg.mode == 'slide':
            cfg.model.test_cfg.update(crop_size=(84, 84), stride=(56, 56))


@pytest.mark.parametrize('config', sorted(path.name for path in CONFIGS.glob('*.py')))
def test_config_builds_and_takes_a_training_and_a_prediction_step(config: str) -> None:
    cfg = load_config(str(CONFIGS / config))
    cfg.model.backbone.init_cfg = None
    if cfg.model.get('neck'):
        cfg.model.neck.pop('init_cfg', None)
    scope = DefaultScope.get_current_instance()
    init_default_scope(cfg.default_scope)
    try:
        shrink(cfg)
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


@pytest.mark.parametrize('config', sorted(path.name for path in CONFIGS.glob('*_cont_m_fpn_*.py')))
def test_batches_have_sides_that_the_patches_of_the_first_two_stages_divide(config: str) -> None:
    cfg = load_config(str(CONFIGS / config))
    (resize,) = (step for step in cfg.test_pipeline if step.type == 'Resize')
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    for size in ((640, 480), (2048, 1024)):
        width, height = rescale_size(size, resize.scale)
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        sides = preprocessor(dict(inputs=[image]))['inputs'].shape[2:]
        # Patches of 14 at stride 8. The shorter side is the paper's choice, and stays what it is.
        assert [side % (8 * 14) for side in sides] == [0, 0]
        assert sides[0] == height


CMT_CLASSIFIERS = [*CONFIGS.glob('cmt_*_in1k.py'), *CONFIGS.glob('cmt_s_8xb64_*.py')]


@pytest.mark.parametrize('config', sorted(path.name for path in CMT_CLASSIFIERS))
def test_cmt_gets_images_of_the_size_that_its_position_bias_is_for(
    config: str, tmp_path: Path
) -> None:
    cfg = load_config(str(CONFIGS / config))
    assert cfg.test_dataloader == cfg.val_dataloader
    image = np.random.randint(256, size=(60, 90, 3), dtype=np.uint8)
    # CIFAR's data sets hold the images themselves.
    sample = dict(img=image, gt_label=0)
    if 'cifar' not in config:
        imwrite(image, str(tmp_path / 'image.png'))
        sample = dict(img_path=str(tmp_path / 'image.png'), gt_label=0)
    with torch.device('meta'):
        side = MODELS.build(cfg.model.backbone).stages[0].position_bias.side * 4
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        for loader in (cfg.train_dataloader, cfg.test_dataloader):
            made = Compose(loader.dataset.pipeline)(dict(sample))['inputs']
            assert made.shape == (3, side, side)
