"""Find common mistakes before any long work starts."""

from __future__ import annotations

import inspect
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from torch import nn

from .config import UserError


def check_model(cfg: Config) -> None:
    """Build the backbone without memory, and compare its pretrained weights with it.

    Raises:
        UserError: For an unknown type or argument, a value that the backbone refuses, or pretrained
            weights that are missing or do not fit.
    """
    # Settles the scope that the config names, as the runner does later.
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    config = cfg.get('model', {}).get('backbone')
    if config is None:
        return
    scope = DefaultScope.get_current_instance()
    with MODELS.switch_scope_and_registry(scope.scope_name if scope else None) as registry:
        try:
            backbone_class = registry.get(config.type)
        except (KeyError, RuntimeError) as error:
            raise UserError(f'model.backbone: {error}') from error
        if backbone_class is None:
            raise UserError(f'model.backbone: no backbone of type {config.type!r} is registered')
        _check_arguments(backbone_class, config)
        try:
            with torch.device('meta'):
                backbone = registry.build(config)
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(f'model.backbone: {error}') from error
    init_cfg = config.get('init_cfg') or []
    for init in [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg:
        if init.get('type') == 'Pretrained':
            _check_pretrained(backbone, init['checkpoint'], init.get('prefix') or '')


def _check_arguments(backbone_class: type, config: Mapping[str, Any]) -> None:
    parameters = inspect.signature(backbone_class).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    unknown = sorted(set(config) - set(parameters) - {'type', '_scope_'})
    if unknown:
        raise UserError(
            f'model.backbone: {backbone_class.__name__} has no argument {", ".join(unknown)}; '
            f'it takes {", ".join(parameters)}'
        )


def _check_pretrained(backbone: nn.Module, checkpoint: str, prefix: str) -> None:
    if '://' in checkpoint:
        return
    if not os.path.isfile(checkpoint):
        raise UserError(
            f'pretrained weights {checkpoint!r} (model.backbone.init_cfg) not found; convert the '
            "authors' file with tools/convert_checkpoint.py, or train from scratch with "
            '--cfg-options model.backbone.init_cfg=None model.backbone.frozen_stages=-1 '
            'model.backbone.norm_eval=False'
        )
    content = _read(checkpoint)
    state = content.get('state_dict', content) if isinstance(content, Mapping) else {}
    prefix = prefix if not prefix or prefix.endswith('.') else f'{prefix}.'
    found = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
    # mmengine loads with strict=False and would merely warn, and train from scratch.
    missing = [key for key, _ in backbone.named_parameters() if key not in found]
    if missing:
        raise UserError(
            f'pretrained weights {checkpoint!r} with prefix {prefix!r} lack {len(missing)} of '
            f'{len(list(backbone.parameters()))} parameters of {type(backbone).__name__}: '
            f'{", ".join(missing[:3])}, ...; was the file made by tools/convert_checkpoint.py, for '
            'this arch?'
        )


def check_checkpoint(path: str) -> None:
    """Check that a local file is a readable checkpoint; URLs are left to the runner.

    Raises:
        UserError: If it is missing or broken.
    """
    if '://' in path:
        return
    if not os.path.isfile(path):
        raise UserError(f'checkpoint {path!r} not found')
    _read(path)


def _read(path: str) -> Any:
    """Look at the names and shapes in a checkpoint without reading its tensors or running code."""
    try:
        return torch.load(path, map_location='meta', weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        # mmengine's own checkpoints hold more than tensors (its message hub): whole, but opaque.
        return None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f'checkpoint {path!r} cannot be read: {reason}') from error


def check_data(cfg: Config, parts: Sequence[str]) -> None:
    """Check that the files and folders that datasets and evaluators name are there.

    Args:
        cfg: The whole config.
        parts: Of ``'train'``, ``'val'`` and ``'test'``, what will run.

    Raises:
        UserError: Naming the first that is missing.
    """
    for part in parts:
        loader = f'{part}_dataloader'
        for dataset in _leaf_datasets((cfg.get(loader) or {}).get('dataset')):
            for what, path in _dataset_paths(dataset):
                if '://' not in path and not os.path.exists(path):
                    raise UserError(
                        f'{loader}: {what} {path!r} not found; put the data there, or say where it '
                        f'is with --cfg-options {loader}.dataset.{what}=...'
                    )
        evaluators = cfg.get(f'{part}_evaluator') or []
        for evaluator in [evaluators] if isinstance(evaluators, Mapping) else evaluators:
            ann_file = evaluator.get('ann_file')
            if ann_file and '://' not in ann_file and not os.path.exists(ann_file):
                raise UserError(
                    f'{part}_evaluator: ann_file {ann_file!r} not found; say where it is with '
                    f'--cfg-options {part}_evaluator.ann_file=...'
                )


def _leaf_datasets(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """Look through wrappers such as RepeatDataset and ConcatDataset."""
    if isinstance(dataset, Mapping):
        if 'dataset' in dataset or 'datasets' in dataset:
            yield from _leaf_datasets(dataset.get('dataset'))
            for inner in dataset.get('datasets', ()):
                yield from _leaf_datasets(inner)
        else:
            yield dataset


def _dataset_paths(dataset: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    root = dataset.get('data_root') or ''
    if root:
        yield 'data_root', root
    if dataset.get('ann_file'):
        yield 'ann_file', os.path.join(root, dataset['ann_file'])
    prefixes = dataset.get('data_prefix') or {}
    for name, prefix in prefixes.items() if isinstance(prefixes, Mapping) else [('', prefixes)]:
        if prefix:
            yield f'data_prefix.{name}'.rstrip('.'), os.path.join(root, prefix)
