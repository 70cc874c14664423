"""Find common mistakes before any long work starts."""

from __future__ import annotations

import copy
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import DATASETS, WEIGHT_INITIALIZERS
from torch import nn

from ..analysis.inspection import image_channels
from ..backbones.base import HybridBackbone
from ..builders import (
    build_model,
    check_arguments,
    find_type,
    leaf_datasets,
    network_errors,
    quiet,
)
from ..checkpoint import load_checkpoint, load_weights, read_checkpoint, read_weights
from ..errors import UserError, WeightMismatchError

#: Of the common classes of models, the heads that take the maps of backbone and neck.
_HEADS = {
    'ImageClassifier': ('head',),
    'EncoderDecoder': ('decode_head', 'auxiliary_head'),
    'SingleStageDetector': ('bbox_head',),
    'TwoStageDetector': ('rpn_head',),
}

#: In what PyTorch, Python and assertions say where maps are too few or of other channels.
_ABOUT_SHAPES = re.compile(
    r'\bchannels?\b|shapes cannot be multiplied|reduction dim|\bindex\b|\blen\('
)


def check_model(cfg: Config, allow_missing: bool = False) -> nn.Module:
    """Build the model without memory, and check its parts, initialisation and pretrained backbone.

    - For a backbone of this project, the file must have all weights.
    - For one of another package that loads weights as mmengine does, it must have at least half of
      them: some layers may not be pretrained.
    - For any other, the file must only be readable: how it is used is not known.

    Args:
        cfg: The whole config.
        allow_missing: Accept weights that do not fit, as mmengine does.

    Returns:
        The model, on the meta device.

    Raises:
        UserError: If it cannot be built, its parts do not fit each other, or pretrained weights are
            missing.
        WeightMismatchError: For pretrained weights that do not fit.
    """
    with quiet():
        model = build_model(cfg, meta=True)
        _check_parts(model)
    for name, module in model.named_modules():
        for key, init in _init_cfgs(f'model.{name}'.rstrip('.'), module):
            own = isinstance(init, Mapping) and type(module).init_weights != BaseModule.init_weights
            if not own:  # those of others may know more types
                found = find_type(WEIGHT_INITIALIZERS, init, key)
                check_arguments(found, init, key, ('override',))
    backbone = getattr(model, 'backbone', None)
    ours = isinstance(backbone, HybridBackbone)
    for _, init in _init_cfgs('model.backbone', backbone):
        if init.get('type') == 'Pretrained' and (ours or '://' not in init['checkpoint']):
            try:
                _check_pretrained(backbone, init['checkpoint'], init.get('prefix') or '')
            except WeightMismatchError:
                if not allow_missing:
                    raise
    return model


@torch.no_grad()
def _check_parts(model: Any) -> None:
    """Check that neck and heads take the maps of what comes before them."""
    names = [base.__name__ for base in type(model).__mro__]
    if not (heads := next((_HEADS[name] for name in names if name in _HEADS), ())):
        return
    model = copy.deepcopy(model).eval()
    # All strides and windows divide these; classifiers may take images of one size only.
    side = 224 if 'head' in heads else 896
    try:
        maps = model.backbone(torch.zeros(1, image_channels(model), side, side, device='meta'))
    except Exception:  # of one that takes another size, or needs numbers, nothing is known
        return
    for name in ('neck', *heads):
        part: Any = getattr(model, name, None)
        modules = [*part] if isinstance(part, nn.ModuleList) else [part] * (part is not None)
        for module in modules:
            parameters = inspect.signature(module.forward).parameters.values()
            if sum(p.default is p.empty and p.kind != p.VAR_KEYWORD for p in parameters) != 1:
                return  # it wants more than maps
            try:
                with network_errors(f'model.{name} does not fit what it gets'):
                    out = module(maps)
            except UserError as error:
                if _ABOUT_SHAPES.search(str(error)):
                    raise
                return  # it needs numbers, or a GPU
            maps = out if name == 'neck' else maps


def _init_cfgs(key: str, module: Any) -> Iterator[tuple[str, Any]]:
    configs = module.init_cfg if isinstance(module, BaseModule) else None
    several = configs if isinstance(configs, list | tuple) else [configs]
    yield from ((f'{key}.init_cfg', config) for config in several if config is not None)


def _check_pretrained(backbone: Any, checkpoint: str, prefix: str) -> None:
    if '://' not in checkpoint and not os.path.exists(os.path.expanduser(checkpoint)):
        raise UserError(
            f'pretrained weights {checkpoint!r} (model.backbone.init_cfg) not found; convert the '
            "authors' file with tools/convert_checkpoint.py, or train from scratch with "
            '--cfg-options model.backbone.init_cfg=None model.backbone.frozen_stages=-1 '
            'model.backbone.norm_eval=False'
        )
    if getattr(type(backbone), 'init_weights', None) is not BaseModule.init_weights:
        read_checkpoint(checkpoint, mmap=True)
        return
    prefix = prefix if not prefix or prefix.endswith('.') else f'{prefix}.'
    found = {
        # As mmengine, which takes no notice of what DDP puts before names if there is no prefix.
        name.removeprefix(prefix or 'module.'): tensor
        for name, tensor in read_weights(checkpoint).items()
        if name.startswith(prefix)
    }
    ours = isinstance(backbone, HybridBackbone)
    source = f'checkpoint {checkpoint!r} with prefix {prefix!r} (model.backbone.init_cfg)'
    try:
        load_weights(backbone, found, source, needed='all' if ours else 'half')
    except WeightMismatchError as error:
        advice = '; was the file made by tools/convert_checkpoint.py, for this arch?'
        raise WeightMismatchError(f'{error}{advice if ours else ""}') from error


def check_load_from(cfg: Config, allow_missing: bool = False) -> list[str]:
    """Check that the weights to start from (``load_from``) hold those of the backbone.

    Args:
        cfg: The whole config.
        allow_missing: Only read them.

    Returns:
        Warnings: what of the rest of the model starts at random.

    Raises:
        UserError: If the file cannot be read.
        WeightMismatchError: If the backbone's weights are not there or do not fit.
    """
    if allow_missing or 'backbone' not in cfg.model:
        read_weights(cfg.load_from)
        return []
    left = load_checkpoint(build_model(cfg, meta=True), cfg.load_from, needed='backbone')
    if not left:
        return []
    some = ', '.join(left[:3]) + (', ...' if len(left) > 3 else '')
    return [
        f'load_from {cfg.load_from!r} has no weights that fit {len(left)} tensors of the model, '
        f'which start at random: {some}'
    ]


def check_data(cfg: Config, parts: Sequence[str]) -> None:
    """Check that the local files and folders that datasets and evaluators name are there.

    Args:
        cfg: The whole config.
        parts: Of ``'train'``, ``'val'`` and ``'test'``, what will run.

    Raises:
        UserError: Naming the first that is missing.
    """
    for part in parts:
        loader = cfg.get(f'{part}_dataloader') or {}
        for key, dataset in leaf_datasets(f'{part}_dataloader.dataset', loader.get('dataset')):
            if not is_local(dataset) or downloads_itself(dataset):
                continue
            for name, path in _dataset_paths(dataset):
                if not os.path.exists(path):
                    raise UserError(
                        f'{part}_dataloader: {name} {path!r} not found; put the data there, or say '
                        f'where it is with --cfg-options {key}.{name}=...'
                    )
        evaluators = cfg.get(f'{part}_evaluator') or []
        for evaluator in [evaluators] if isinstance(evaluators, Mapping) else evaluators:
            ann = evaluator.get('ann_file')
            if isinstance(ann, str) and is_local(evaluator) and not os.path.exists(ann):
                raise UserError(
                    f'{part}_evaluator: ann_file {ann!r} not found; say where it is with '
                    f'--cfg-options {part}_evaluator.ann_file=...'
                )


def odd_settings(cfg: Config, processes: int) -> list[str]:
    """Find settings of a training that runs, but not as it was probably meant.

    Args:
        cfg: The whole config.
        processes: How many train together.

    Returns:
        Warnings: a learning rate for another batch size, schedules that never take effect, colours
        of another range.
    """
    return [*_odd_batch_size(cfg, processes), *_odd_schedules(cfg), *_odd_colours(cfg)]


def _odd_colours(cfg: Config) -> Iterator[str]:
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if (std := preprocessor.get('std')) and isinstance(std, list | tuple) and max(std) < 1:
        yield (
            f'data_preprocessor.std {std} is for images from 0 to 1, while pipelines load them '
            'from 0 to 255: multiply mean and std by 255'
        )


def _odd_batch_size(cfg: Config, processes: int) -> Iterator[str]:
    scale, size = cfg.get('auto_scale_lr') or {}, cfg.train_dataloader.get('batch_size')
    base = scale.get('base_batch_size')
    if size and base and not scale.get('enable'):
        count = cfg.optim_wrapper.get('accumulative_counts', 1)
        if (real := processes * size * count) != base:
            yield (
                f'the learning rate is for {base} images in a step (auto_scale_lr), and this run '
                f'takes {real}; --auto-scale-lr scales it'
            )


def _odd_schedules(cfg: Config) -> Iterator[str]:
    by_epoch = 'max_epochs' in cfg.train_cfg
    end = cfg.train_cfg['max_epochs' if by_epoch else 'max_iters']
    unit = 'epoch' if by_epoch else 'iteration'
    schedules = cfg.get('param_scheduler') or []
    for schedule in [schedules] if isinstance(schedules, Mapping) else schedules:
        if not isinstance(schedule, Mapping) or schedule.get('convert_to_iter_based'):
            continue
        name = f'{schedule.get("type")} of param_scheduler'
        own_epochs = schedule.get('by_epoch', True)
        times = [schedule.get('begin', 0), *schedule.get('milestones', ())]
        if own_epochs and not by_epoch:
            yield f'{name} goes by epochs, and the training by iterations: write by_epoch=False'
        elif own_epochs == by_epoch and (late := [time for time in times if time >= end]):
            yield f'{name} changes nothing at {unit} {late[0]}: the training ends at {end}'


def is_local(config: Mapping[str, Any]) -> bool:
    """Tell whether the files that a data set or an evaluator names are on this machine."""
    backend = config.get('backend_args') or {}
    paths = [config.get('data_root'), config.get('ann_file')]
    return backend.get('backend', 'local') == 'local' and not any('://' in str(p) for p in paths)


def downloads_itself(dataset: Mapping[str, Any]) -> bool:
    """Tell mmpretrain's CIFAR and its like by their argument."""
    dataset_class = dataset.get('type')
    if isinstance(dataset_class, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            dataset_class = registry.get(dataset_class)
    if dataset_class is None or 'download' not in inspect.signature(dataset_class).parameters:
        return False
    return dataset.get('download', True)


def _dataset_paths(dataset: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    root = dataset.get('data_root') or ''
    if root:
        yield 'data_root', root
    prefixes = dataset.get('data_prefix') or {}
    if not isinstance(prefixes, Mapping):
        prefixes = {'': prefixes}
    named = {'ann_file': dataset.get('ann_file')}
    named |= {f'data_prefix.{name}'.rstrip('.'): prefix for name, prefix in prefixes.items()}
    for name, path in named.items():
        if path and isinstance(path, str):
            yield name, os.path.join(root, path)
