"""What the checks refuse is in tests/integration/test_mistakes.py; here, what they must not."""

import re
from ast import literal_eval
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS

from mmcontnet import backbones
from mmcontnet.backbones import CMT, ConTNet, SwinACmix
from mmcontnet.backbones.base import HybridBackbone
from mmcontnet.builders import check_arguments
from mmcontnet.checkpoint import safe_loading
from mmcontnet.engine import (
    build_optimization,
    check_components,
    check_data,
    check_model,
    load_config,
    odd_settings,
)
from mmcontnet.errors import UserError, WeightMismatchError

from .. import families

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    'base',
    [
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
        'mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py',
        'mmdet::dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
        'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
        'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        'mmpretrain::resnet/resnet18_8xb16_cifar10.py',
    ],
)
def test_stock_configs_are_accepted_but_for_their_data(base: str, tmp_path: Path) -> None:
    (tmp_path / 'config.py').write_text(f'_base_ = {base!r}\n')
    check_all(tmp_path / 'config.py', {})
    cfg = load_config(str(tmp_path / 'config.py'))
    if 'cifar' in base:  # downloads its data by itself
        check_data(cfg, ['train', 'val'])
    else:
        with pytest.raises(UserError, match='train_dataloader: data_root .* not found'):
            check_data(cfg, ['train', 'val'])


def test_mmsegs_own_configs_are_found() -> None:
    cfg = load_config('mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py')
    assert cfg.model.decode_head.type == 'PSPHead'
    with pytest.raises(UserError, match=r"config '.*none\.py' not found"):
        load_config('mmseg::none.py')


def config_of(**backbone: Any) -> Config:
    model = dict(type='ImageClassifier', backbone=backbone)
    return Config(dict(default_scope='mmpretrain', model=model))


def pretrained(path: Path) -> Config:
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    return config_of(type='ConTNet', arch='s', init_cfg=init_cfg)


@pytest.mark.parametrize('prefix', ['backbone.', 'module.backbone.', 'module.'])
def test_weights_that_fit_are_accepted_wrapped_or_not(prefix: str, tmp_path: Path) -> None:
    state = ConTNet('s').state_dict()
    torch.save({'state_dict': {prefix + k: v for k, v in state.items()}}, tmp_path / 'weights.pth')
    cfg = pretrained(tmp_path / 'weights.pth')
    if prefix == 'module.':
        del cfg.model.backbone.init_cfg.prefix
    check_model(cfg)
    # And mmengine loads them.
    with safe_loading():
        backbone = MODELS.build(cfg.model.backbone)
        backbone.init_weights()
    torch.testing.assert_close(backbone.state_dict(), state, rtol=0, atol=0)
    cfg.model.backbone.init_cfg.prefix = 'head.'
    with pytest.raises(UserError, match=r"with prefix 'head\.' .* does not fit: "):
        check_model(cfg)


@pytest.mark.parametrize('family', ['CMT', 'ResNetACmix', 'SwinACmix'])
def test_weights_of_a_deeper_arch_are_refused_but_not_stages_that_are_not_needed(
    family: str, tmp_path: Path
) -> None:
    arch = next(f.kwargs['arch'] for f in families.FAMILIES if f.type == family)
    deeper = dict(arch, depths=(2, *arch['depths'][1:]))
    shallow = dict(arch, depths=(1, *arch['depths'][1:]))
    backbone = getattr(backbones, family)(deeper, out_indices=(1, 2, 3))
    state = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'deep.pth')
    cfg = pretrained(tmp_path / 'deep.pth')
    cfg.model.backbone.update(type=family, arch=deeper, out_indices=(1,))
    check_model(cfg)
    cfg.model.backbone.arch = shallow
    with pytest.raises(UserError, match=r"deep\.pth' .*is of a deeper network: .*stages\.0.*\.1,"):
        check_model(cfg)


def test_weights_that_are_adapted_when_loaded_are_accepted(tmp_path: Path) -> None:
    state = {f'backbone.{k}': v for k, v in CMT(families.CMT).state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'cmt.pth')
    cfg = pretrained(tmp_path / 'cmt.pth')
    cfg.model.backbone.update(type='CMT', arch=families.CMT, img_size=96)
    check_model(cfg)
    tables = [f'backbone.stages.{stage}.position_bias.table' for stage in (1, 2)]
    for i, table in enumerate(tables):
        state[table] = state[table][:, :-1]
        torch.save({'state_dict': state}, tmp_path / 'cmt.pth')
        message = rf'{i + 1} of \d+ tensors .*stages\.1\.position_bias\.table'
        with pytest.raises(UserError, match=message):
            check_model(cfg)
    # Nor do they start at random where nobody checks.
    with pytest.raises(WeightMismatchError, match=r'^stages\.1\.position_bias\.table of shape'):
        CMT(families.CMT, init_cfg=cfg.model.backbone.init_cfg).init_weights()
    for table in tables:
        del state[table]
    torch.save({'state_dict': state}, tmp_path / 'cmt.pth')
    with pytest.raises(UserError, match=r'2 of \d+ tensors .*stages\.1\.position_bias\.table'):
        check_model(cfg)


def test_weights_of_a_classifier_may_lack_the_norms_of_other_outputs(
    tmp_path: Path,
) -> None:
    state = {f'backbone.{k}': v for k, v in SwinACmix(families.SWIN_ACMIX).state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'swin.pth')
    cfg = pretrained(tmp_path / 'swin.pth')
    cfg.model.backbone.update(type='SwinACmix', arch=families.SWIN_ACMIX, out_indices=families.ALL)
    check_model(cfg)
    # The last stage's is in all of them, and what has another shape is still found.
    del state['backbone.stages.3.norm.bias']
    state['backbone.stages.2.norm.weight'] = torch.ones(7)
    state['backbone.stages.2.norm.bias'] = torch.ones(24)
    torch.save({'state_dict': state}, tmp_path / 'swin.pth')
    with pytest.raises(
        UserError, match=r'2 of \d+ tensors .*stages\.2\.norm\.weight, stages\.3\.norm\.bias'
    ):
        check_model(cfg)


def test_a_missing_folder_in_a_wrapper_is_named_with_its_key() -> None:
    inner = dict(type='CocoDataset', data_root='nowhere/')
    dataset = dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=inner)])
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    key = 'train_dataloader.dataset.datasets.0.dataset.data_root='
    with pytest.raises(UserError, match=key):
        check_data(cfg, ['train'])


def test_data_of_other_backends_are_left_to_them() -> None:
    inner = dict(type='CocoDataset', data_root='nowhere/', backend_args=dict(backend='petrel'))
    check_data(Config(dict(train_dataloader=dict(dataset=inner))), ['train'])
    listed = dict(type='CocoDataset', ann_file=['a.json', 'b.json'])
    check_data(Config(dict(train_dataloader=dict(dataset=listed))), ['train'])


RETINANET = ROOT / 'configs/retinanet_cont_m_fpn_1x_coco.py'
DATASET = 'train_dataloader.dataset'
GETS = 'does not fit what it gets: '
MISTAKES = {
    # What is no config.
    'model': (5, 'must be of type dict, got 5'),
    'model.neck': (5, 'must be a dict with a type, got 5'),
    f'{DATASET}.pipeline': (5, 'must be a dict with a type, got 5'),
    'val_evaluator': (5, 'must be of type dict or list or tuple, got 5'),
    # What does not fit what is before it.
    'model.neck.in_channels': ([1, 2, 3], f'{GETS}RuntimeError: Invalid channel dimensions'),
    'model.neck.out_channels': (8, f'.bbox_head {GETS}RuntimeError: '),
    # Types.
    'model.neck.type': ('FPNN', "no 'FPNN' is registered as model; did you mean FPN"),
    'model.train_cfg.assigner.type': ('None', "no 'None' is registered as task util"),
    f'{DATASET}.pipeline.0.type': ('no.Load', "no 'no.Load' is registered as transform"),
    'train_dataloader.sampler.type': ('X', "no 'X' is registered as data sampler"),
    'train_dataloader.collate_fn.type': ('colate', "no 'colate' is registered as function"),
    'optim_wrapper.optimizer.type': ('SDG', "no 'SDG' is registered as optimizer"),
    'optim_wrapper.constructor': ('X', "no 'X' is registered as optimizer wrapper constructor"),
    'param_scheduler.0.type': ('LinearLr', "no 'LinearLr' is registered as parameter scheduler"),
    'train_cfg.type': ('X', "no 'X' is registered as loop"),
    'model_wrapper_cfg.type': ('X', "no 'X' is registered as model_wrapper"),
    'runner_type': ('X', "no 'X' is registered as runner"),
    # Arguments.
    'model.neck.chanels': (3, 'FPN has no argument chanels; it takes in_channels, out_channels, '),
    'model.backbone.arch': ('xl', "ConTNet: ValueError: ConTNet has no arch 'xl'; choose from"),
    'model.train_cfg.assigner.pos': (2, 'MaxIoUAssigner has no argument pos; it takes pos_iou_thr'),
    f'{DATASET}.ann_fil': ('x', 'CocoDataset has no argument ann_fil; it takes seg_map_suffix'),
    f'{DATASET}.pipeline.2.scal': (3, 'Resize has no argument scal; it takes scale, scale_factor'),
    'train_dataloader.batchsize': (3, 'DataLoader has no argument batchsize; it takes batch_size'),
    'train_dataloader.drop_last': (True, 'batch_sampler option is mutually exclusive'),
    'val_evaluator.metrik': ('x', 'CocoMetric has no argument metrik; it takes ann_file, metric'),
    'optim_wrapper.optimizer.rate': (1, 'SGD has no argument rate; it takes params, lr'),
    'param_scheduler.0.start_factor': (7, 'LinearLR: ValueError: Starting multiplicative factor'),
    'val_evaluator.metric': ('box', "CocoMetric: KeyError: \"metric should be one of 'bbox'"),
    'default_hooks.checkpoint.intervall': (5, 'save_checkpoint has no argument intervall; it'),
    'default_hooks.checkpoint.save_best': (5, 'CheckpointHook: AssertionError: "save_best" should'),
    'default_hooks.checkpoint': (
        dict(type='CheckpointHook', save_best='mAP'),
        ".save_best must be 'auto' or one of the scores 'coco/...'",
    ),
    'default_hooks.timer.priority': ('HIGHST', 'must be one of HIGHEST, VERY_HIGH, HIGH, '),
    'custom_hooks': ([dict(type='EMAHook', momentm=0.1)], '.0: ExponentialMovingAverage has no'),
    'randomness.sed': (1, 'set_randomness has no argument sed; it takes seed, diff_rank_seed'),
    'randomness.seed': ('x', "must be int or None, got 'x'"),
    'env_cfg.mp_cfg': (5, 'must be dict, got 5'),
    'env_cfg.mp_cfg.start': ('fork', 'set_multi_processing has no argument start; it takes mp_s'),
    'optim_wrapper.clip_grad': (
        {'max_nrm': 5},
        'clip_grad_norm_ has no argument max_nrm; it takes',
    ),
    'optim_wrapper.paramwise_cfg': (
        {'norm_decay': 0},
        'DefaultOptimWrapperConstructor has no argument norm_decay; it takes custom_keys, ',
    ),
    'optim_wrapper.paramwise_cfg ': (5, 'must be dict, got 5'),
    'train_cfg.val_interval': (-1, 'must be a positive int, got -1'),
    'train_cfg': (
        dict(type='IterBasedTrainLoop', max_iters=9, val_interval=-1, _delete_=True),
        '.val_interval must be a positive int, got -1',
    ),
    'log_level': ('INFOO', "must be DEBUG, INFO, WARNING or ERROR, got 'INFOO'"),
    'log_processor.size': (5, 'LogProcessor has no argument size; it takes window_size, by_epoch'),
    'train_cfg.max_epochs': ('abc', "max_epochs of EpochBasedTrainLoop must be int, got 'abc'"),
    'train_cfg.epochs': (5, 'EpochBasedTrainLoop has no argument epochs; it takes max_epochs'),
}


def check_all(path: Path | str, options: dict[str, Any]) -> None:
    cfg = load_config(str(path), {'model.backbone.init_cfg': None, **options})
    model = check_model(cfg)
    assert all(parameter.is_meta for parameter in model.parameters())
    check_components(cfg, ['train', 'val'])
    build_optimization(cfg, model)


@pytest.mark.parametrize('option', MISTAKES)
def test_mistakes_are_told_with_their_key(option: str) -> None:
    value, message = MISTAKES[option]
    option = option.strip()  # some have two mistakes
    # A wrong type or value is told at what has it, an argument that nobody takes at its owner.
    owner = option.rpartition('.')[0]
    keys = {option, owner or option, owner.rpartition('.')[0] or option}
    with pytest.raises(UserError) as error:
        check_all(RETINANET, {option: value})
    key = next(key for key in sorted(keys, key=len)[::-1] if str(error.value).startswith(key))
    assert str(error.value).removeprefix(key).lstrip(': ').startswith(message)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ByAttribute(DefaultOptimWrapperConstructor):
    """Reads its options as a ConfigDict's attributes."""

    def add_params(self, *args: Any, **kwargs: Any) -> None:
        super().add_params(*args, **kwargs)
        assert self.paramwise_cfg.rate == 1


SEVERAL = dict(type='MultiDatasetsEvaluator', dataset_prefixes=['a'])
METRIC = dict(type='CocoMetric', ann_file='a.json')


@pytest.mark.parametrize(
    'options',
    [
        {'train_cfg.max_epochs': 12.0},
        {'optim_wrapper.constructor': 'ByAttribute', 'optim_wrapper.paramwise_cfg': dict(rate=1)},
        {'default_hooks.checkpoint.save_best': 'coco/bbox_mAP'},
        {'default_hooks.checkpoint.save_best': ['coco/bbox_mAP', 'coco/bbox_mAP_50']},
        {
            'default_hooks.checkpoint.save_best': 'a/coco/bbox_mAP',
            'val_evaluator': dict(SEVERAL, metrics=[METRIC], _delete_=True),
        },
        {
            'default_hooks.checkpoint.save_best': 'teacher/coco/bbox_mAP',
            'val_cfg.type': 'TeacherStudentValLoop',
        },
    ],
)
def test_what_mmengine_and_mmdet_take_is_accepted(options: dict[str, Any]) -> None:
    check_all(RETINANET, options)


@pytest.mark.parametrize(
    ('config', 'option', 'part'),
    [
        pytest.param(
            *('upernet_cmt_s_160k_ade20k', 'auxiliary_head.in_index=9', 'auxiliary_head'),
            marks=pytest.mark.slow,
        ),
        ('cont_s_8xb64_in1k', 'head.in_channels=7', 'head'),
        ('faster_rcnn_cont_m_fpn_1x_coco', 'rpn_head.in_channels=7', 'rpn_head'),
    ],
)
def test_heads_take_what_comes_before_them(config: str, option: str, part: str) -> None:
    key, value = option.split('=')
    with pytest.raises(UserError, match=rf'^model\.{part} {GETS}\w+Error: .'):
        check_all(ROOT / f'configs/{config}.py', {f'model.{key}': literal_eval(value)})


def test_parts_that_cannot_be_tried_are_accepted() -> None:
    cfg = load_config('mmpretrain::mlp_mixer/mlp-mixer-base-p16_64xb64_in1k.py')
    cfg.model.backbone.img_size = 192
    check_model(cfg)
    for name in ('dyhead/atss_r50_fpn_dyhead', 'vfnet/vfnet_r50_fpn'):  # have layers in mmcv
        check_model(load_config(f'mmdet::{name}_1x_coco.py', {'model.backbone.init_cfg': None}))


class Base:
    def __init__(self, a: int, b: int = 0) -> None: ...


class HandsOn(Base):
    def __init__(self, *args: Any, c: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class Keeps(Base):
    def __init__(self, c: int = 0, **kwargs: Any) -> None:
        self.d = kwargs.pop('d', None)
        super().__init__(**kwargs)


def function(a: int, size: int = 0, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ('found', 'accepted', 'mistake'),
    [
        (Base, dict(a=1), dict(a=1, c=1)),
        (HandsOn, dict(a=1, b=1, c=1), dict(c=1, d=1)),
        (HandsOn, dict(c=1), dict(a=1)),
        (Keeps, dict(c=1, d=1, e=1), None),
        (function, dict(a=1, d=1), dict(d=1)),
        (function, dict(a=1, height=1), dict(a=1, siize=1)),  # which is misspelt
        (partial(function, a=1), dict(d=1), None),
        (dict, dict(a=1), None),
    ],
)
def test_arguments_are_refused_only_if_nobody_takes_them(
    found: Any, accepted: dict[str, int], mistake: dict[str, int] | None
) -> None:
    check_arguments(found, accepted, 'key', ())
    if mistake is not None:
        with pytest.raises(UserError, match='^key: (Base|HandsOn|function) (has no|needs) '):
            check_arguments(found, mistake, 'key', ())


WITHIN = {'__name__': 'mmcontnet.layers.defect'}
exec('def fail(error): raise error("from within")', WITHIN)


@MODELS.register_module()
class Defective(HybridBackbone):
    """Raises what a defect of a constructor would."""

    def __init__(self, error: type[Exception]) -> None:
        WITHIN['fail'](error)  # type: ignore[operator]


def test_a_defect_of_ours_is_not_reported_as_a_mistake_of_the_users() -> None:
    with pytest.raises(UserError, match=r'^model\.backbone: Defective: ValueError: from within$'):
        check_model(config_of(type='Defective', error=ValueError))
    for error in (TypeError, AttributeError, KeyError, RuntimeError):
        with pytest.raises(error, match='from within'):
            check_model(config_of(type='Defective', error=error))


EPOCHS, ITERATIONS = dict(max_epochs=12), dict(max_iters=90)


@pytest.mark.parametrize(
    ('processes', 'settings', 'odd'),
    [
        (8, {}, []),
        (1, {}, ['the learning rate is for 16 images in a step .* takes 2; --auto-scale-lr']),
        (1, dict(auto_scale_lr=dict(base_batch_size=16, enable=True)), []),
        (4, dict(optim_wrapper=dict(accumulative_counts=2)), []),
        (8, dict(train_cfg=dict(max_epochs=8)), ['MultiStepLR .* at epoch 11: .* ends at 8']),
        (8, dict(model=dict(data_preprocessor=dict(std=[0.2, 0.2, 0.3]))), ['multiply mean and']),
        (8, dict(train_cfg=ITERATIONS), ['MultiStepLR .* by epochs, and .*: write by_epoch=False']),
        (
            8,
            dict(train_cfg=ITERATIONS, param_scheduler=dict(type='PolyLR', by_epoch=False)),
            [],
        ),
    ],
)
def test_settings_that_are_probably_not_meant_are_warnings(
    processes: int, settings: dict[str, Any], odd: list[str]
) -> None:
    schedule = dict(type='MultiStepLR', by_epoch=True, milestones=[4, 11])
    warm_up = dict(type='LinearLR', by_epoch=False, begin=0, end=500)
    cfg = Config(
        dict(
            model={},
            train_cfg=EPOCHS,
            train_dataloader=dict(batch_size=2),
            optim_wrapper=dict(type='OptimWrapper'),
            auto_scale_lr=dict(base_batch_size=16),
            param_scheduler=[warm_up, schedule],
        )
        | settings
    )
    found = odd_settings(cfg, processes)
    assert len(found) == len(odd)
    assert all(map(re.search, odd, found)), found
