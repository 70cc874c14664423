"""Every config builds its full network, and takes a training and a prediction step."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv import imwrite, rescale_size
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontnet.engine import load_config

CONFIGS = Path(__file__).parents[1] / 'configs'
# CoTNet's are many: those with its other archs are compared with CoTNet-50's, except for one
# classifier of every arch.
COTNET50_KIN = sorted(
    path.name
    for pattern in ('*_rcnn_*cotn*_coco.py', '*cotn*_advanced_*.py')
    for path in CONFIGS.glob(pattern)
    if 'cotnet50' not in path.name
)


def batch(cfg: Config) -> dict:
    """Make two small images with annotations, sides no patch divides, in the scope's own form."""
    if cfg.default_scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        head = cfg.model.get('bbox_head') or cfg.model.roi_head.bbox_head
        data = demo_mm_inputs(2, [[3, 90, 110], [3, 112, 70]], num_classes=80, with_mask=True)
        num_classes = head[0].num_classes if isinstance(head, list) else head.num_classes
        for sample in data['data_samples']:
            sample.gt_instances.labels %= num_classes
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
        stages = cfg.model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 32
        cfg.model.test_cfg.rpn.max_per_img = 32
    if cfg.default_scope == 'mmseg':
        if cfg.model.data_preprocessor.get('size'):
            cfg.model.data_preprocessor.size = (112, 112)
        if cfg.model.test_cfg.mode == 'slide':
            cfg.model.test_cfg.update(crop_size=(84, 84), stride=(56, 56))


@pytest.mark.parametrize(
    'config', sorted({path.name for path in CONFIGS.glob('*.py')} - set(COTNET50_KIN))
)
def test_config_builds_and_takes_a_training_and_a_prediction_step(config: str) -> None:
    cfg = load_config(str(CONFIGS / config))
    # DDP's search costs a walk through the graph in every step; nor may another wrapper ask for it.
    assert not {'find_unused_parameters', 'model_wrapper_cfg', 'strategy'} & set(cfg)
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
        norms = {
            name: (norm, norm.running_mean.clone(), norm.running_var.clone())
            for name, norm in model.train().backbone.named_modules()
            if isinstance(norm, _BatchNorm)
        }
        processed = model.data_preprocessor(data, training=True)
        loss, _ = model.parse_losses(model(**processed, mode='loss'))
        assert loss.isfinite()
        loss.backward()
        # What is not frozen has a gradient, so DDP needs no search for unused parameters.
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        for name, (norm, mean, var) in norms.items():
            frozen = cfg.model.backbone.get('norm_eval', False) or not norm.weight.requires_grad
            kept = torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, var)
            assert kept is frozen, name
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        clip_grad = cfg.optim_wrapper.get('clip_grad')
        length = torch.stack([g.norm() for g in gradients]).norm()
        if clip_grad:
            for gradient in gradients:
                gradient.mul_(100 * clip_grad.max_norm / length)
            length.fill_(clip_grad.max_norm)
        optim_wrapper.step()
        after = torch.stack([g.norm() for g in gradients]).norm()
        torch.testing.assert_close(after, length, rtol=1e-3, atol=0.0)
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


@cache
def cotnet50(config: str) -> Config:
    return Config.fromfile(CONFIGS / config)


@pytest.mark.parametrize('config', COTNET50_KIN)
def test_configs_with_other_cotnets_are_cotnet50s_but_for_the_backbone(config: str) -> None:
    name = re.search(r'(se_)?cotn(etd?|ext)[0-9]+', config)[0]
    family, depth = re.fullmatch(r'(.*?)([0-9]+)', name).groups()
    base = cotnet50(config.replace(name, 'cotnet50').replace('_320_', '_'))
    cfg = Config.fromfile(CONFIGS / config)
    backbone, cfg.model.backbone = cfg.model.backbone, base.model.backbone
    assert backbone.arch == {'cotnet': '', 'cotnext': 'next', 'se_cotnetd': 'se-d'}[family] + depth
    with torch.device('meta'):
        channels = MODELS.build(dict(backbone, init_cfg=None)).out_channels
    if 'rcnn' in config:
        assert backbone.init_cfg.checkpoint == f'checkpoints/{name}_in1k.pth'
        assert list(channels) == cfg.model.neck.in_channels
    else:
        assert channels == (cfg.model.head.in_channels,)
        assert backbone.drop_path_rate == (0.15 if depth == '152' else 0.1)
        optimizer = cfg.optim_wrapper.optimizer
        # The authors' released values.
        assert optimizer.weight_decay == (6e-5 if name in ('cotnet101', 'cotnext101') else 4e-5)
        optimizer.weight_decay = base.optim_wrapper.optimizer.weight_decay
    if depth == '152':  # other sizes
        for key in ('train_pipeline', 'test_pipeline'):
            cfg[key] = base[key]
        for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            cfg[key].dataset.pipeline = base[key].dataset.pipeline
    assert cfg.to_dict() == base.to_dict()


@pytest.mark.parametrize(
    'method', ['faster_rcnn', 'cascade_rcnn', 'mask_rcnn', 'cascade_mask_rcnn']
)
def test_sync_bn_reaches_all_of_cotnets_detectors_and_spares_what_is_frozen(method: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'{method}_cotnet50_fpn_1x_coco.py')
    with DefaultScope.overwrite_default_scope('mmdet'), torch.device('meta'):
        # What the runner does where several processes train.
        model = convert_sync_batchnorm(MODELS.build(cfg.model), cfg.sync_bn).train()
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms.values())
    for name, norm in norms.items():
        frozen = name.startswith(('backbone.stem.', 'backbone.stages.0.'))
        assert norm.training is norm.weight.requires_grad is not frozen, name
    parts = {re.match(r'backbone|neck|roi_head[.][a-z]+_head', name)[0] for name in norms}
    with_masks = {'roi_head.mask_head'} if 'mask' in method else set()
    assert parts == {'backbone', 'neck', 'roi_head.bbox_head'} | with_masks


@pytest.mark.parametrize(
    ('config', 'side', 'resized'),
    [
        ('cotnet50_8xb64_in1k.py', 224, 256),
        ('cotnet50_advanced_8xb64_in1k.py', 224, 256),
        ('se_cotnetd152_advanced_8xb64_in1k.py', 256, 288),
        ('se_cotnetd152_advanced_320_8xb64_in1k.py', 320, 352),
    ],
)
def test_cotnet_gets_images_of_the_released_recipes_sizes(
    config: str, side: int, resized: int, tmp_path: Path
) -> None:
    cfg = Config.fromfile(CONFIGS / config)
    assert cfg.test_dataloader == cfg.val_dataloader
    assert cfg.test_pipeline[1].scale == resized
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size
    imwrite(np.random.randint(256, size=(60, 90, 3), dtype=np.uint8), str(tmp_path / 'image.png'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        for loader in (cfg.train_dataloader, cfg.test_dataloader):
            pipeline = Compose(loader.dataset.pipeline)
            made = pipeline(dict(img_path=str(tmp_path / 'image.png'), gt_label=0))['inputs']
            assert made.shape == (3, side, side)


def test_policies_of_cotnets_advanced_training_change_an_image_but_for_solarize() -> None:
    cfg = Config.fromfile(CONFIGS / 'cotnet50_advanced_8xb64_in1k.py')
    (settings,) = (step for step in cfg.train_pipeline if step.type == 'RandAugment')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        (augment,) = Compose([settings]).transforms
    image = np.random.randint(30, 200, size=(224, 224, 3), dtype=np.uint8)
    unchanged = set()
    for transform in augment:
        transform.prob = 1.0  # of being applied; half of it in training
        made = transform(dict(img=image.copy()))['img']
        assert made.shape == image.shape
        assert made.dtype == image.dtype
        if (made == image).all():
            unchanged.add(type(transform).__name__)
    # At such levels no pixel is bright enough for it.
    assert unchanged == {'Solarize'}
