"""Which parameters a recipe decays, and which learn at another rate, as mmengine builds it."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmcontnet.layers import PatchEncoder

CONFIGS = Path(__file__).parents[1] / 'configs'
NAMES = sorted(path.name for path in CONFIGS.glob('*.py'))
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm)


def groups(cfg: Config) -> tuple[nn.Module, dict[str, tuple[float, float]]]:
    """Build model and optimizer; return (learning rate, weight decay) of what is not frozen."""
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = MODELS.build(cfg.model)
        param_groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    by_id = {id(p): (g['lr'], g['weight_decay']) for g in param_groups for p in g['params']}
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
    """Names of norms' parameters, biases, position encodings, bias tables and ACmix's rates."""
    last = r'bias|row|column|sequence|position|relative_position_bias_table|table|rate_\w+'
    names = {name for name, _ in model.named_parameters()}
    return norm_parameters(model) | {n for n in names if re.search(rf'\.({last})$', n)}


# One variant for each recipe: the others' parameters have the same names. SAN's and ResNet's
# recipes decay everything, as do mmdet's 1x and PVT's for dense prediction.
SPARING = [
    *(
        (f'{config}.py', pos_encoding)
        for config in (
            'cont_ti_8xb64_in1k',
            'cont_ti_strong_aug_8xb64_in1k',
            'pspnet_cont_m_80k_cityscapes',
        )
        for pos_encoding in ('2d', '1d', 'relative')
    ),
    ('cmt_ti_8xb128_in1k.py', None),
    ('pspnet_cmt_s_80k_cityscapes.py', None),
    ('cotnet50_8xb64_in1k.py', None),
    ('se_cotnetd50_advanced_8xb64_in1k.py', None),
    ('pvt_acmix_t_8xb128_in1k.py', None),
    ('swin_acmix_t_8xb128_in1k.py', None),
    ('mask_rcnn_swin_acmix_t_fpn_3x_ms_coco.py', None),
    ('upernet_swin_acmix_t_160k_ade20k.py', None),
]


@pytest.mark.parametrize(('config', 'pos_encoding'), SPARING)
def test_weight_decay_is_off_exactly_for_norms_biases_encodings_tables_and_rates(
    config: str, pos_encoding: str | None
) -> None:
    cfg = Config.fromfile(CONFIGS / config)
    if pos_encoding:
        cfg.model.backbone.pos_encoding = pos_encoding
    model, found = groups(cfg)
    assert {name for name, (_, decay) in found.items() if decay == 0} == undecayed(model)
    assert len({decay for _, decay in found.values()}) == 2
    # But for the two exceptions below, the learning rate is one.
    if cfg.optim_wrapper.get('constructor') is None and not config.startswith('pspnet_cont'):
        assert len({lr for lr, _ in found.values()}) == 1


@pytest.mark.parametrize(('conv', 'encoder'), [(0.2, 0.005), (0.1, 0.001)])  # table 10
def test_contnets_encoders_have_a_learning_rate_of_their_own(conv: float, encoder: float) -> None:
    cfg = Config.fromfile(CONFIGS / 'cont_ti_8xb64_in1k.py')
    options = {'optimizer.lr': conv, 'paramwise_cfg.encoder_lr': encoder}
    cfg.merge_from_dict({f'optim_wrapper.{key}': value for key, value in options.items()})
    model, found = groups(cfg)
    prefixes = tuple(f'{n}.' for n, m in model.named_modules() if isinstance(m, PatchEncoder))
    assert prefixes
    for name, (lr, _) in found.items():
        inside = name.startswith(prefixes)
        assert lr == (encoder if inside else conv), name


def test_a_recipe_without_the_encoders_learning_rate_is_refused() -> None:
    cfg = Config.fromfile(CONFIGS / 'cont_ti_8xb64_in1k.py')
    del cfg.optim_wrapper.paramwise_cfg['encoder_lr']
    with pytest.raises(ValueError, match='encoder_lr must be a positive number, got None'):
        groups(cfg)


def test_heads_of_pspnet_with_contnet_learn_ten_times_faster() -> None:
    cfg = Config.fromfile(CONFIGS / 'pspnet_cont_m_80k_cityscapes.py')
    base = cfg.optim_wrapper.optimizer.lr
    for name, (lr, _) in groups(cfg)[1].items():
        assert lr == pytest.approx(base if name.startswith('backbone.') else 10 * base), name


@pytest.mark.parametrize(
    'config', [n for n in NAMES if re.match('(retinanet|mask_rcnn)_cmt_s.*1x|fpn_pvt_acmix_t', n)]
)
def test_dense_prediction_by_pvts_recipe_treats_all_parameters_alike(config: str) -> None:
    model, found = groups(Config.fromfile(CONFIGS / config))
    assert len(set(found.values())) == 1
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize('arch', ['cotnet50', 'se_cotnetd50'])
def test_detectors_with_cotnet_decay_biases_but_no_norm(arch: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'cascade_mask_rcnn_{arch}_fpn_1x_coco.py')
    model, found = groups(cfg)
    frozen = ('backbone.stem.', 'backbone.stages.0.')
    learning = {n for n, _ in model.named_parameters() if not n.startswith(frozen)}
    assert found.keys() == learning
    without = {name for name, (_, decay) in found.items() if decay == 0}
    assert without == norm_parameters(model) & learning
    assert len({lr for lr, _ in found.values()}) == 1


@pytest.mark.parametrize(
    'config',
    [
        'cmt_ti_8xb128_in1k.py',
        'pspnet_cont_m_80k_cityscapes.py',
        'retinanet_pvt_acmix_t_fpn_1x_coco.py',
    ],
)
def test_rates_decay_by_layer_over_the_rest_of_a_recipe(config: str) -> None:
    cfg = Config.fromfile(CONFIGS / config)
    cfg.model.backbone.frozen_stages = -1
    _, plain = groups(cfg)
    cfg.merge_from_dict({'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.5})
    cfg.optim_wrapper.constructor = 'LayerDecayConstructor'
    model, found = groups(cfg)
    for name, (lr, decay) in found.items():
        depth, layers = model.backbone.get_layer_depth(name, 'backbone.')
        assert lr == pytest.approx(plain[name][0] * 0.5 ** (layers - 1 - depth)), name
        assert decay == plain[name][1]
    assert (
        len({lr for name, (lr, _) in found.items() if name.startswith('backbone.')}) == layers - 1
    )


def test_mmpretrains_own_constructor_gives_classifiers_the_same_rates() -> None:
    cfg = Config.fromfile(CONFIGS / 'cmt_ti_8xb128_in1k.py')
    cfg.optim_wrapper.paramwise_cfg = dict(layer_decay_rate=0.7)
    rates = []
    for constructor in ('LayerDecayConstructor', 'LearningRateDecayOptimWrapperConstructor'):
        cfg.optim_wrapper.constructor = constructor
        rates.append({name: lr for name, (lr, _) in groups(cfg)[1].items()})
    assert rates[0] == pytest.approx(rates[1])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'paramwise_cfg.layer_decay_rate': 1.5}, 'layer_decay_rate must be in 0-1, got 1.5'),
        ({'optimizer.lr': None, 'paramwise_cfg.layer_decay_rate': 0.7}, 'needs optimizer.lr'),
    ],
)
def test_a_decay_that_cannot_be_is_refused(options: dict, message: str) -> None:
    cfg = Config.fromfile(CONFIGS / 'cmt_ti_8xb128_in1k.py')
    cfg.optim_wrapper.constructor = 'LayerDecayConstructor'
    cfg.merge_from_dict({f'optim_wrapper.{key}': value for key, value in options.items()})
    with pytest.raises(ValueError, match=message):
        groups(cfg)
