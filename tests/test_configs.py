"""Every config builds, and what surrounds the network fits it; a config of each kind trains."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv import imwrite, rescale_size
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontnet.analysis.results import read_figures, read_results
from mmcontnet.builders import build_model
from mmcontnet.engine import load_config

CONFIGS = Path(__file__).parents[1] / 'configs'
NAMES = sorted(path.name for path in CONFIGS.glob('*.py'))
RESULTS = read_results()
METHODS = sorted(RESULTS['names']['methods'], key=len, reverse=True)
BACKBONES = {
    word: backbone
    for family in RESULTS['families'].values()
    for word, backbone in family['backbones'].items()
}


def backbone_of(name: str) -> str:
    """The word for the backbone in a config's name."""
    return max((word for word in BACKBONES if re.search(rf'(^|_){word}_', name)), key=len)


def kind(name: str) -> tuple[str | None, str | None]:
    """The method and the type of the backbone that a config's name says."""
    method = next((word for word in METHODS if name.startswith(f'{word}_')), None)
    return method, BACKBONES[backbone_of(name)].get('type')


# In the order of the results file, so the smallest of a series. ResNets are mmdet's business.
ORDER = [name for family in RESULTS['families'].values() for name in family['configs']]
FIRST_OF_ITS_KIND = list({kind(n): n for n in reversed(ORDER) if kind(n)[1] is not None}.values())


@pytest.mark.parametrize('config', NAMES)
def test_config_builds_a_network_whose_parts_fit(config: str) -> None:
    cfg = load_config(str(CONFIGS / config))
    # DDP's search costs a walk through the graph in every step; nor may another wrapper ask for it.
    assert not {'find_unused_parameters', 'model_wrapper_cfg', 'strategy'} & set(cfg)
    model = build_model(cfg, meta=True)
    if figures := read_figures().get(config):
        assert sum(p.numel() for p in model.parameters()) == figures['ours']['parameters']
    schedules, loop = cfg.param_scheduler, cfg.train_cfg
    last = schedules[-1] if isinstance(schedules, list) else schedules
    assert last.get('end') in (None, loop.get('max_epochs') or loop.max_iters)
    if batch := re.search(r'_8xb(\d+)_', config):
        assert cfg.train_dataloader.batch_size == int(batch[1])
        assert cfg.auto_scale_lr.base_batch_size == 8 * int(batch[1])
    if kind(config)[1] is None:
        return
    if init_cfg := cfg.model.backbone.get('init_cfg'):
        assert init_cfg.checkpoint == f'checkpoints/{backbone_of(config)}_in1k.pth'
    # What is not read would have no gradient, and DDP would wait for it.
    channels = list(model.backbone.out_channels)
    of_variant = BACKBONES[backbone_of(config)]['channels']
    assert channels == [of_variant[i] for i in model.backbone.out_indices]
    if cfg.default_scope == 'mmdet' or 'FPN' in str(cfg.model.get('neck')):
        assert (cfg.model.neck.in_channels, cfg.model.neck.get('start_level', 0)) == (channels, 0)
    elif cfg.default_scope == 'mmseg':
        for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
            read = head.in_index if isinstance(head.in_index, (list, tuple)) else [head.in_index]
            widths = head.in_channels if isinstance(head.in_channels, list) else [head.in_channels]
            assert [channels[i] for i in read] == widths
        assert max(read) < len(channels)
    else:
        reader = cfg.model.neck if 'in_channels' in cfg.model.neck else cfg.model.head
        assert channels == [reader.in_channels]


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


@pytest.mark.slow
@pytest.mark.parametrize('config', FIRST_OF_ITS_KIND)
def test_training_reaches_every_parameter_and_clips_and_prediction_runs(config: str) -> None:
    cfg = load_config(str(CONFIGS / config))
    cfg.model.backbone.init_cfg = None
    shrink(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
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
    assert [type(prediction) for prediction in predictions] == [type(data['data_samples'][0])] * 2


@pytest.mark.parametrize('config', [name for name in NAMES if kind(name)[0]])
def test_annotations_are_drawn_where_they_are(config: str) -> None:
    loader = load_config(str(CONFIGS / config)).test_dataloader
    steps = [step.type for step in loader.dataset.pipeline]
    # Pictures show them in the original image, whose size a Resize before would have changed.
    if 'Resize' in steps:
        assert steps.index('Resize') < steps.index('LoadAnnotations')


@pytest.mark.parametrize('config', [name for name in NAMES if '_cont_m_fpn_' in name])
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


@pytest.mark.parametrize(
    'config', [name for name in NAMES if kind(name)[0] is None and name in read_figures()]
)
def test_classifiers_get_images_of_the_size_for_which_they_are_counted(
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
    shape = read_figures()[config]['shape']
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        for loader in (cfg.train_dataloader, cfg.test_dataloader):
            assert list(Compose(loader.dataset.pipeline)(dict(sample))['inputs'].shape[1:]) == shape
    if cfg.model.backbone.type == 'CMT':
        with torch.device('meta'):
            side = MODELS.build(cfg.model.backbone).stages[0].position_bias.side * 4
        assert shape == [side, side]


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
