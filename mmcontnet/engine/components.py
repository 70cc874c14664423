"""Check the types and arguments of what a run will build."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.optim import (
    DefaultOptimWrapperConstructor,
    OptimWrapperDict,
    build_optim_wrapper,
)
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    FUNCTIONS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODEL_WRAPPERS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    RUNNERS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    Registry,
)
from mmengine.runner import Priority, Runner, get_priority
from mmengine.utils.dl_utils import set_multi_processing
from mmengine.visualization import Visualizer
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.utils.data import DataLoader, Dataset, Sampler

from ..builders import build, check_arguments, explained, find_type, quiet
from ..errors import UserError

#: For what stands under a key: where its type is registered, and the arguments that its builder
#: adds or takes away (None: any).
_RULES: dict[str, tuple[Registry, Collection[str] | None]] = {
    'dataset': (DATASETS, ()),
    'datasets': (DATASETS, ()),
    'pipeline': (TRANSFORMS, ()),
    'switch_pipeline': (TRANSFORMS, ()),
    'sampler': (DATA_SAMPLERS, ('dataset', 'seed')),
    'batch_sampler': (DATA_SAMPLERS, ('sampler', 'batch_size')),
    'collate_fn': (FUNCTIONS, None),
    'worker_init_fn': (FUNCTIONS, None),
    'metrics': (METRICS, ()),
    'vis_backends': (VISBACKENDS, ('save_dir',)),
}
#: What the runner takes out of a data loader's arguments.
_OWN = ('num_batch_per_epoch', 'disable_subprocess_warning')

#: Arguments of metrics that have them read or make files.
_FILES = ('ann_file', 'output_dir')
#: What mmengine's own constructor of optimizers reads; what else there is it passes over.
_PARAMWISE = (
    *('custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'dwconv_decay_mult'),
    *('flat_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate'),
)
#: For schedulers over epochs, before the data are read.
_EPOCH_LENGTH = 10**6


@quiet()
def check_components(cfg: Config, parts: Sequence[str]) -> None:
    """Check what a run builds beside its model and optimizer, without building what reads data.

    Args:
        cfg: The whole config.
        parts: Of ``'train'``, ``'val'`` and ``'test'``, what will run.

    Raises:
        UserError: Naming the first type that is not registered, and the first argument that its
            type does not accept or that is missing.
    """
    for part in ('train', 'val', 'test'):
        names = [f'{part}_dataloader', f'{part}_cfg', f'{part}_evaluator']
        names[2] = 'optim_wrapper' if part == 'train' else names[2]
        loader, loop, evaluator = (cfg.get(name) for name in names)
        missing = [name for name in names if cfg.get(name) is None]
        if missing and (part in parts or len(missing) < 3):
            raise UserError(f'the config has no {", ".join(missing)}')
        if part in parts:
            _check_loader(names[0], loader)
            defaults = dict(train='EpochBasedTrainLoop', val='ValLoop', test='TestLoop')
            if part == 'train' and not loop.get('by_epoch', True):
                defaults['train'] = 'IterBasedTrainLoop'
            added = ('runner', 'dataloader', 'evaluator', 'by_epoch')
            loop = {'type': defaults[part], **loop}
            _check(names[1], loop, LOOPS, added)
            if find_type(LOOPS, loop, names[1]).__module__.startswith('mmengine.'):
                _check_lengths(names[1], loop)
            if part != 'train' and 'metrics' in evaluator:
                _check(names[2], {'type': 'Evaluator', **evaluator}, EVALUATOR)
            elif part != 'train':
                _check(names[2], evaluator, METRICS)
    for name, hook in (cfg.get('default_hooks') or {}).items():
        _check(f'default_hooks.{name}', hook, HOOKS, ('priority',))
    _check('custom_hooks', cfg.get('custom_hooks'), HOOKS, ('priority',))
    _check('visualizer', cfg.get('visualizer'), VISUALIZERS, ('name', 'save_dir'))
    processor = {'type': 'LogProcessor', **(cfg.get('log_processor') or {})}
    _check('log_processor', processor, LOG_PROCESSORS)
    _check('model_wrapper_cfg', cfg.get('model_wrapper_cfg'), MODEL_WRAPPERS, None)
    find_type(RUNNERS, {'type': cfg.get('runner_type', 'Runner')}, 'runner_type')
    _check_environment(cfg)
    _check_save_best(cfg, parts)


def _check_lengths(key: str, loop: Mapping[str, Any]) -> None:
    """Check how long one of mmengine's loops trains."""
    for name in ('max_epochs', 'max_iters', 'val_interval'):
        number = loop.get(name, 1)
        # mmengine takes whole floats too.
        if not isinstance(number, int | float) or number < 1 or number % 1 != 0:
            raise UserError(f'{key}.{name} must be a positive int, got {number!r:.100}')


def _check_environment(cfg: Config) -> None:
    """Check seeds, processes and the level of the log."""
    randomness, environment = cfg.get('randomness') or {}, cfg.get('env_cfg') or {}
    check_arguments(Runner.set_randomness, randomness, 'randomness', None)
    if not isinstance(seed := randomness.get('seed'), int | None):
        raise UserError(f'randomness.seed must be int or None, got {seed!r:.100}')
    for name, function in (('mp_cfg', set_multi_processing), ('dist_cfg', init_dist)):
        arguments = environment.get(name, {})
        if not isinstance(arguments, Mapping):
            raise UserError(f'env_cfg.{name} must be dict, got {arguments!r:.100}')
        check_arguments(function, arguments, f'env_cfg.{name}', None)
    level = cfg.get('log_level') or 'INFO'
    if not isinstance(level, int) and not isinstance(logging.getLevelName(level), int):
        raise UserError(f'log_level must be DEBUG, INFO, WARNING or ERROR, got {level!r:.100}')


def _check_save_best(cfg: Config, parts: Sequence[str]) -> None:
    """Check that scores can have the names by which the best checkpoint is chosen."""
    key = 'default_hooks.checkpoint.save_best'
    wanted = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
    names = {wanted} if isinstance(wanted, str) else {*(wanted or ())}
    metrics = cfg.get('val_evaluator')
    if not names - {'auto'} or 'val' not in parts:
        return
    # Loops and evaluators of other types may name scores as they like.
    wrapped = isinstance(metrics, Mapping) and 'metrics' in metrics
    if wrapped or cfg.val_cfg.get('type', 'ValLoop') != 'ValLoop':
        return
    metrics = metrics if isinstance(metrics, list | tuple) else [metrics]
    built = [_build_metric(m, key) if isinstance(m, Mapping) else None for m in metrics]
    prefixes = [getattr(metric, 'prefix', None) for metric in built]
    if not all(prefixes):  # metrics without a prefix may, too
        return
    for name in sorted(names - {'auto'}):
        if not any(name.startswith(f'{prefix}/') for prefix in prefixes):
            accepted = ', '.join(f"'{prefix}/...'" for prefix in prefixes)
            raise UserError(f"{key} must be 'auto' or one of the scores {accepted}, got {name!r}")


def _check_loader(key: str, loader: Mapping[str, Any]) -> None:
    for name, value in loader.items():
        if name in _RULES:
            _check(f'{key}.{name}', value, *_RULES[name])
    plain = {k: v for k, v in loader.items() if k not in {*_RULES, *_OWN}}
    check_arguments(DataLoader, plain, key, _RULES)
    try:
        DataLoader(range(9), **plain)  # type: ignore[arg-type]
        if loader.get('batch_sampler'):  # which gets the batch size
            plain = {k: v for k, v in plain.items() if k != 'batch_size'}
            DataLoader(range(9), batch_sampler=[[0]], **plain)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UserError(f'{key}: {error}') from error


def _check(key: str, config: Any, registry: Registry, added: Collection[str] | None = ()) -> None:
    """Check a config, or several, and what they hold."""
    if isinstance(config, list | tuple):
        for i, inner in enumerate(config):
            _check(f'{key}.{i}', inner, registry, added)
    elif config is None or callable(config) or isinstance(config, Dataset | Sampler):
        return  # is built already
    elif registry is TRANSFORMS:
        build(registry, config, key)  # they may hold others
    else:
        found = find_type(registry, config, key)
        check_arguments(found, config, key, added)
        for name, inner in config.items():
            if name in _RULES:
                _check(f'{key}.{name}', inner, *_RULES[name])
        if registry is METRICS:
            _build_metric(config, key)
        elif registry is HOOKS:
            _check_hook(key, config)


def _build_metric(config: Mapping[str, Any], key: str) -> Any:
    """Build a metric without its files, or return None if it needs them."""
    parameters = inspect.signature(find_type(METRICS, config, key)).parameters
    if any(
        parameters[name].default is inspect.Parameter.empty for name in _FILES if name in parameters
    ):
        return None
    return build(METRICS, {k: v for k, v in config.items() if k not in _FILES}, key)


def _check_hook(key: str, config: Mapping[str, Any]) -> None:
    """Build a hook, and check what it uses later only."""
    Visualizer.get_instance('checks')  # some look for the one of their run
    hook = build(HOOKS, {k: v for k, v in config.items() if k != 'priority'}, key)
    try:
        get_priority(config.get('priority', 'NORMAL'))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{key}.priority must be one of {", ".join(Priority.__members__)} or a '
            f'number from 0 to 100, got {config["priority"]!r:.100}'
        ) from error
    if isinstance(hook, EMAHook):
        build(MODELS, hook.ema_cfg, key, model=nn.Identity())
    elif isinstance(hook, CheckpointHook):
        check_arguments(Runner.save_checkpoint, hook.args, key, None)


@quiet()
def build_optimization(cfg: Config, model: nn.Module) -> tuple[Any, list[Any]]:
    """Build what changes the weights in training.

    Args:
        cfg: The whole config.
        model: Its model, which may be without memory.

    Returns:
        The optimizer in its wrapper, None if it needs the other processes of a run (ZeRO); and the
        schedulers of its parameters.

    Raises:
        UserError: If they cannot be built.
    """
    config, schedulers = cfg.get('optim_wrapper') or {}, cfg.get('param_scheduler') or []
    if 'optimizer' in config:
        found = find_type(OPTIMIZERS, config['optimizer'], 'optim_wrapper.optimizer')
        if inspect.isclass(found) and issubclass(found, ZeroRedundancyOptimizer):
            return None, []
    # What the wrapper gets: the rest is its constructor's.
    wrapper = {'type': 'OptimWrapper', **config}
    for name in ('constructor', 'paramwise_cfg'):
        wrapper.pop(name, None)
    options = config.get('paramwise_cfg') or {}
    if not isinstance(options, Mapping):
        raise UserError(f'optim_wrapper.paramwise_cfg must be dict, got {options!r:.100}')
    constructor = {'type': config.get('constructor', 'DefaultOptimWrapperConstructor')}
    found = find_type(OPTIM_WRAPPER_CONSTRUCTORS, constructor, 'optim_wrapper.constructor')
    unread = sorted(options.keys() - {*_PARAMWISE})
    if found is DefaultOptimWrapperConstructor and unread:
        raise UserError(
            f'optim_wrapper.paramwise_cfg: {found.__name__} has no argument {", ".join(unread)}; '
            f'it takes {", ".join(_PARAMWISE)}'
        )
    try:
        with explained(OPTIM_WRAPPERS, wrapper, 'optim_wrapper'):
            optimizer = build_optim_wrapper(model, config)
    except UserError as error:
        if isinstance(error.__cause__, NotImplementedError):  # they know backbones by name
            raise UserError(
                f'optim_wrapper.constructor: {found.__name__} does not know this backbone. '
                "For learning rates that decay by layer, take constructor='LayerDecayConstructor' "
                'with paramwise_cfg=dict(layer_decay_rate=0.7)'
            ) from error
        raise
    for wrapper in optimizer.values() if isinstance(optimizer, OptimWrapperDict) else [optimizer]:
        if arguments := getattr(wrapper, 'clip_grad_kwargs', None):
            check_arguments(
                wrapper.clip_func, arguments, 'optim_wrapper.clip_grad', ('parameters',)
            )
    several = schedulers if isinstance(schedulers, list | tuple) else [schedulers]
    if isinstance(optimizer, OptimWrapperDict):  # each optimizer may have schedulers of its own
        return optimizer, []
    added = dict(optimizer=optimizer, epoch_length=_EPOCH_LENGTH)
    return optimizer, [
        build(PARAM_SCHEDULERS, scheduler, f'param_scheduler.{i}', **added)
        for i, scheduler in enumerate(several)
    ]
