"""Learning rates and weight decay of the recipes, on the optimizers that mmengine builds."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmcontnet.layers import PatchEncoder

CONFIGS = Path(__file__).parents[1] / 'configs'
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm)


def settings(cfg: Config) -> tuple[nn.Module, dict[str, tuple[float, float]]]:
    """Build model and optimizer; return (learning rate, weight decay) of what is not frozen."""
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = MODELS.build(cfg.model)
        groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    by_id = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    return model, {n: by_id[id(p)] for n, p in model.named_parameters() if p.requires_grad}


def norm_parameters(model: nn.Module) -> set[str]:
    """Names of norms' parameters."""
    return {
        f'{prefix}.{name}'
        for prefix, module in model.named_modules()
        if isinstance(module, NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }


def undecayed(model: nn.Module) -> set[str]:
    """Names of norms' parameters, biases, position encodings and relative position bias tables."""
    names = {name for name, _ in model.named_parameters()}
    last = {name: name.rsplit('.', 1)[1] for name in names}
    encodings = {'row', 'column', 'sequence', 'relative_position_bias_table', 'table'}
    return norm_parameters(model) | {name for name in names if last[name] in {'bias', *encodings}}


IMAGENET = sorted(path.name for path in CONFIGS.glob('cont_*_in1k.py'))


@pytest.mark.parametrize('pos_encoding', ['2d', '1d', 'relative'])
@pytest.mark.parametrize('config', IMAGENET)
def test_weight_decay_is_off_exactly_for_norms_biases_encodings_and_bias_tables(
    config: str, pos_encoding: str
) -> None:
    cfg = Config.fromfile(CONFIGS / config)
    cfg.model.backbone.pos_encoding = pos_encoding
    model, found = settings(cfg)
    without = {name for name, (_, decay) in found.items() if decay == 0}
    assert without == undecayed(model)
    assert {decay for _, decay in found.values()} - {0} == {
        0.05 if 'strong_aug' in config else 5e-5
    }


@pytest.mark.parametrize(
    ('options', 'conv_lr', 'encoder_lr'),
    [({}, 0.2, 0.005)]
    + [
        (
            {
                'optim_wrapper.optimizer.lr': conv,
                'optim_wrapper.paramwise_cfg.encoder_lr': encoder,
            },
            conv,
            encoder,
        )
        for conv, encoder in ((0.2, 0.01), (0.2, 0.005), (0.1, 0.005), (0.1, 0.001))  # table 10
    ],
    ids=str,
)
def test_encoders_have_a_learning_rate_of_their_own(
    options: dict, conv_lr: float, encoder_lr: float
) -> None:
    cfg = Config.fromfile(CONFIGS / 'cont_m_8xb64_in1k.py')
    cfg.merge_from_dict(options)
    model, found = settings(cfg)
    encoders = [name for name, module in model.named_modules() if isinstance(module, PatchEncoder)]
    assert len(encoders) == 16
    for name, (lr, _) in found.items():
        inside = name.startswith(tuple(f'{encoder}.' for encoder in encoders))
        assert lr == (encoder_lr if inside else conv_lr), name


def test_strong_augmentation_has_the_learning_rate_of_the_paper_everywhere() -> None:
    _, found = settings(Config.fromfile(CONFIGS / 'cont_m_strong_aug_8xb64_in1k.py'))
    assert {lr for lr, _ in found.values()} == {5e-4}


def test_a_recipe_without_the_encoders_learning_rate_is_refused() -> None:
    cfg = Config.fromfile(CONFIGS / 'cont_ti_8xb64_in1k.py')
    del cfg.optim_wrapper.paramwise_cfg['encoder_lr']
    with pytest.raises(ValueError, match='encoder_lr must be a positive number, got None'):
        settings(cfg)


@pytest.mark.parametrize('pos_encoding', ['2d', '1d', 'relative'])
def test_pspnet_decays_the_same_parameters_and_its_heads_learn_ten_times_faster(
    pos_encoding: str,
) -> None:
    cfg = Config.fromfile(CONFIGS / 'pspnet_cont_m_80k_cityscapes.py')
    cfg.model.backbone.pos_encoding = pos_encoding
    model, found = settings(cfg)
    assert {name for name, (_, decay) in found.items() if decay == 0} == undecayed(model)
    for name, (lr, decay) in found.items():
        assert lr == pytest.approx(6e-5 if name.startswith('backbone.') else 6e-4), name
        assert decay in (0, 0.01)


@pytest.mark.parametrize(
    ('config', 'lr', 'decay', 'epochs'),
    [
        # The released commands', at a batch of 1024.
        ('cmt_ti_8xb128_in1k.py', 2 * 8e-4, 0.05, 800),
        ('cmt_xs_8xb128_in1k.py', 2 * 7e-4, 0.04, 400),
        ('cmt_s_8xb128_in1k.py', 2 * 5e-4, 0.05, 300),
        ('cmt_b_8xb128_in1k.py', 2 * 5e-4, 0.05, 300),
        ('cmt_l_8xb128_in1k.py', 2 * 5e-4, 0.05, 300),
        # Appendix B.1.
        ('cmt_s_8xb64_150e_cifar10.py', 6e-5, 0.05, 150),
        ('cmt_s_8xb64_150e_cifar100.py', 6e-5, 0.05, 150),
        ('cmt_s_8xb64_300e_flowers102.py', 9e-5, 0.05, 300),
        ('cmt_s_8xb64_300e_pets.py', 6e-5, 0.05, 300),
        ('cmt_s_8xb64_500e_cars.py', 9e-5, 0.05, 500),
        ('pspnet_cmt_s_80k_cityscapes.py', 6e-5, 0.01, None),
        ('upernet_cmt_s_160k_ade20k.py', 6e-5, 0.01, None),
    ],
)
def test_cmt_learns_at_one_rate_and_decays_all_but_norms_biases_and_bias_tables(
    config: str, lr: float, decay: float, epochs: int | None
) -> None:
    cfg = Config.fromfile(CONFIGS / config)
    assert cfg.train_cfg.get('max_epochs') == epochs
    model, found = settings(cfg)
    without = undecayed(model)
    assert any(name.endswith('position_bias.table') for name in without)
    for name, rates in found.items():
        assert rates == pytest.approx((lr, 0 if name in without else decay)), name


@pytest.mark.parametrize(
    ('config', 'warm_up', 'drop_path_rate', 'drop_rate'),
    [
        ('cmt_ti_8xb128_in1k.py', 20, 0.1, 0.1),
        ('cmt_xs_8xb128_in1k.py', 20, 0.08, 0.1),
        ('cmt_s_8xb128_in1k.py', 20, 0.1, 0.1),
        ('cmt_b_8xb128_in1k.py', 20, 0.25, 0.3),
        ('cmt_l_8xb128_in1k.py', 20, 0.25, 0.3),
        ('cmt_s_8xb64_150e_cifar10.py', 5, 0.1, 0.1),
        ('cmt_s_8xb64_150e_cifar100.py', 5, 0.1, 0.1),
        ('cmt_s_8xb64_300e_flowers102.py', 5, 0.1, 0.1),
        ('cmt_s_8xb64_300e_pets.py', 5, 0.1, 0.1),
        ('cmt_s_8xb64_500e_cars.py', 5, 0.1, 0.1),
    ],
)
def test_cmt_is_augmented_and_regularised_as_released(
    config: str, warm_up: int, drop_path_rate: float, drop_rate: float
) -> None:
    cfg = Config.fromfile(CONFIGS / config)
    assert cfg.model.backbone.drop_path_rate == drop_path_rate
    assert cfg.model.neck.drop_rate == drop_rate
    assert cfg.model.head.loss.label_smooth_val == 0.1
    warming, cosine = cfg.param_scheduler
    assert warming.end == cosine.begin == warm_up
    mixing = {augment.type: augment.alpha for augment in cfg.model.train_cfg.augments}
    assert mixing == {'Mixup': 0.8, 'CutMix': 1.0}
    assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'
    steps = {step.type for step in cfg.train_dataloader.dataset.pipeline}
    assert steps >= {'RandomResizedCrop', 'RandomFlip', 'RandAugment', 'RandomErasing'}
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size


@pytest.mark.parametrize('method', ['pspnet_cmt_s_80k_cityscapes', 'upernet_cmt_s_160k_ade20k'])
def test_segmenters_with_cmt_normalise_over_all_gpus(method: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'{method}.py')
    assert cfg.sync_bn == 'torch'
    assert not cfg.model.backbone.get('norm_eval')


@pytest.mark.parametrize('method', ['retinanet', 'mask_rcnn'])
@pytest.mark.parametrize('schedule', ['1x', '3x_ms'])
def test_detectors_with_cmt_have_the_rates_of_pvt(method: str, schedule: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'{method}_cmt_s_fpn_{schedule}_coco.py')
    model, found = settings(cfg)
    assert set(found.values()) == {(1e-4 if method == 'retinanet' else 2e-4, 1e-4)}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert cfg.model.backbone.norm_eval
    assert cfg.model.backbone.drop_path_rate == 0.1
    epochs, milestones = (12, [8, 11]) if schedule == '1x' else (36, [27, 33])
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == epochs
    assert cfg.param_scheduler[1].milestones == milestones
    (resize,) = (step for step in cfg.train_dataloader.dataset.pipeline if 'Resize' in step.type)
    scale = (1333, 800) if schedule == '1x' else [(1333, 640), (1333, 800)]
    assert resize.scale == scale


@pytest.mark.parametrize(
    ('config', 'lr', 'decay', 'drop_path_rate'),
    [
        ('swin_acmix_t_8xb128_in1k.py', 1e-3, 0.05, 0.2),
        ('swin_acmix_s_8xb128_in1k.py', 1e-3, 0.05, 0.3),
        ('mask_rcnn_swin_acmix_t_fpn_3x_ms_coco.py', 1e-4, 0.05, 0.2),
        ('cascade_mask_rcnn_swin_acmix_t_fpn_3x_ms_coco.py', 1e-4, 0.05, 0.2),
        ('upernet_swin_acmix_t_160k_ade20k.py', 6e-5, 0.01, 0.3),
        ('upernet_swin_acmix_s_160k_ade20k.py', 6e-5, 0.01, 0.3),
    ],
)
def test_swin_with_acmix_has_swins_recipes_and_decays_no_rates_of_paths(
    config: str, lr: float, decay: float, drop_path_rate: float
) -> None:
    cfg = Config.fromfile(CONFIGS / config)
    assert cfg.model.backbone.drop_path_rate == drop_path_rate
    if '_coco' in config:
        assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == 36
    model, found = settings(cfg)
    rates = {name for name, _ in model.named_parameters() if '.rate_' in name}
    assert len(rates) == 2 * (12 if '_t_' in config else 24)
    without = undecayed(model) | rates
    for name, values in found.items():
        assert values == pytest.approx((lr, 0 if name in without else decay)), name


@pytest.mark.parametrize('arch', ['t', 's'])
def test_pvt_with_acmix_has_deits_recipe_and_decays_no_positions_and_rates_of_paths(
    arch: str,
) -> None:
    cfg = Config.fromfile(CONFIGS / f'pvt_acmix_{arch}_8xb128_in1k.py')
    assert cfg.model.backbone.drop_path_rate == 0.1
    assert cfg.train_cfg.max_epochs == 300
    model, found = settings(cfg)
    more = {n for n, _ in model.named_parameters() if n.endswith('.position') or '.rate_' in n}
    assert len(more) == 4 + 2 * (8 if arch == 't' else 16)
    without = undecayed(model) | more
    for name, values in found.items():
        assert values == pytest.approx((1e-3, 0 if name in without else 0.05)), name


@pytest.mark.parametrize(
    ('config', 'epochs'),
    [
        ('retinanet_pvt_acmix_t_fpn_1x_coco.py', 12),
        ('retinanet_pvt_acmix_t_fpn_3x_ms_coco.py', 36),
        ('fpn_pvt_acmix_t_40k_ade20k.py', None),
        ('fpn_pvt_acmix_s_40k_ade20k.py', None),
    ],
)
def test_dense_prediction_with_pvt_has_the_rates_of_pvt(config: str, epochs: int | None) -> None:
    cfg = Config.fromfile(CONFIGS / config)
    assert cfg.train_cfg.get('max_epochs') == epochs
    assert cfg.param_scheduler[-1].get('end') == epochs
    model, found = settings(cfg)
    assert set(found.values()) == {(1e-4, 1e-4)}
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize('arch', ['10', '15', '19'])
def test_san_with_acmix_has_sans_recipe(arch: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'san_acmix{arch}_8xb32_in1k.py')
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler.end == 100
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size
    _, found = settings(cfg)
    assert set(found.values()) == {(0.1, 1e-4)}


@pytest.mark.parametrize(
    ('config', 'decay', 'epochs'),
    [('cotnet50_8xb64_in1k.py', 1e-4, 100), ('cotnet50_advanced_8xb64_in1k.py', 4e-5, 350)],
)
def test_cotnet_learns_at_one_rate_and_decays_all_but_norms_and_biases(
    config: str, decay: float, epochs: int
) -> None:
    cfg = Config.fromfile(CONFIGS / config)
    assert cfg.train_cfg.max_epochs == epochs
    (ema,) = cfg.custom_hooks
    assert ema.momentum == pytest.approx(1e-4)  # mmengine's is one minus the decay
    model, found = settings(cfg)
    without = undecayed(model)
    for name, rates in found.items():
        assert rates == pytest.approx((0.2, 0 if name in without else decay)), name


@pytest.mark.parametrize('arch', ['cotnet50', 'se_cotnetd50'])
def test_detectors_with_cotnet_decay_biases_but_no_norm(arch: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'cascade_mask_rcnn_{arch}_fpn_1x_coco.py')
    model, found = settings(cfg)
    norms = norm_parameters(model)
    for name, _ in model.named_parameters():
        if name.startswith(('backbone.stem.', 'backbone.stages.0.')):
            assert name not in found
        else:
            assert found[name] == (0.02, 0 if name in norms else 1e-4), name
