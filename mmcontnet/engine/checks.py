"""Find common mistakes before any long work starts."""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from torch import nn

from ..backbones.base import HybridBackbone
from .checkpoints import read_checkpoint
from .config import UserError


def check_model(cfg: Config) -> None:
    """Check the backbone's type, arguments and pretrained weights.

    Backbones of ours are built, without memory, and their weights compared with the file. Of others
    only the type, the names of the arguments and the file's presence are checked: they may take
    weights in forms of their own.

    Raises:
        UserError: For an unknown type or argument, a value that the backbone refuses, or pretrained
            weights that are missing or do not fit.
    """
    config = (cfg.get('model') or {}).get('backbone')
    if config is None:
        return
    with MODELS.switch_scope_and_registry(config.get('_scope_')) as registry:
        backbone_class = config.type
        if isinstance(backbone_class, str):
            try:
                backbone_class = registry.get(config.type)
            except RuntimeError:  # what mmengine raises for names with a dot
                backbone_class = None
        if backbone_class is None:
            raise UserError(f'model.backbone: no backbone of type {config.type!r} is registered')
        _check_arguments(backbone_class, config)
        backbone = None
        if inspect.isclass(backbone_class) and issubclass(backbone_class, HybridBackbone):
            try:
                with torch.device('meta'):
                    backbone = registry.build(config)
            except (TypeError, ValueError) as error:
                raise UserError(f'model.backbone: {error}') from error
    init_cfg = config.get('init_cfg') or []
    for init in [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg:
        if init.get('type') == 'Pretrained' and '://' not in init['checkpoint']:
            _check_pretrained(backbone, init['checkpoint'], init.get('prefix') or '')


def _check_arguments(backbone_class: Any, config: Mapping[str, Any]) -> None:
    parameters = inspect.signature(backbone_class).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    unknown = sorted(set(config) - set(parameters) - {'type', '_scope_'})
    if unknown:
        raise UserError(
            f'model.backbone: {backbone_class.__name__} has no argument {", ".join(unknown)}; '
            f'it takes {", ".join(parameters)}'
        )


def _check_pretrained(backbone: HybridBackbone | None, checkpoint: str, prefix: str) -> None:
    if not os.path.isfile(os.path.expanduser(checkpoint)):
        raise UserError(
            f'pretrained weights {checkpoint!r} (model.backbone.init_cfg) not found; convert the '
            "authors' file with tools/convert_checkpoint.py, or train from scratch with "
            '--cfg-options model.backbone.init_cfg=None model.backbone.frozen_stages=-1 '
            'model.backbone.norm_eval=False'
        )
    content = read_checkpoint(checkpoint, 'meta')
    if backbone is None:
        return
    prefix = prefix if not prefix or prefix.endswith('.') else f'{prefix}.'
    state = content.get('state_dict', content) if isinstance(content, Mapping) else None
    found = {
        # As mmengine, which takes no notice of what DDP puts before names if there is no prefix.
        key.removeprefix(prefix or 'module.'): value
        for key, value in (state.items() if isinstance(state, Mapping) else ())
        if isinstance(value, torch.Tensor) and isinstance(key, str) and key.startswith(prefix)
    }
    # mmengine would merely warn, and train from scratch.
    wrong, _ = load_what_fits(backbone, found)
    check_depth(backbone, found, f'pretrained weights {checkpoint!r}')
    if wrong:
        raise UserError(
            f'pretrained weights {checkpoint!r} with prefix {prefix!r} do not fit '
            f'{type(backbone).__name__}: {len(wrong)} of its tensors are missing or of '
            f'another shape ({", ".join(wrong[:3])}, ...); was the file made by '
            'tools/convert_checkpoint.py, for this arch?'
        )


def load_what_fits(module: nn.Module, state: Mapping[str, torch.Tensor]) -> tuple[list[str], int]:
    """Load tensors into a module, whose hooks may adapt them to it; others than its are left out.

    Args:
        module: The module.
        state: Tensors by their names in the module.

    Returns:
        Names of the module's tensors that are missing or of another shape, and how many it has.
    """
    # Old checkpoints lack these counters, and BatchNorm does without.
    names = [name for name in module.state_dict() if not name.endswith('num_batches_tracked')]
    wrong: set[str] = set()
    with warnings.catch_warnings():
        # A module on the meta device, which only wants to know.
        warnings.filterwarnings('ignore', message='.*copying from a non-meta parameter')
        try:
            missing = module.load_state_dict(state, strict=False).missing_keys
        except RuntimeError as error:
            wrong = set(re.findall(r'size mismatch for (\S+):', str(error)))
            fitting = {name: tensor for name, tensor in state.items() if name not in wrong}
            missing = module.load_state_dict(fitting, strict=False).missing_keys
    wrong.update(missing)
    return [name for name in names if name in wrong], len(names)


def check_depth(module: nn.Module, names: Iterable[str], source: str) -> None:
    """Check that weights are not those of a deeper network, which would load without a word.

    Args:
        module: The model or the backbone, with stages as backbones here have them. Stages of its
            that are not built, because no output needs them, may be in the file.
        names: Of the tensors.
        source: What holds them, for the message.

    Raises:
        UserError: If a stage has more blocks there.
    """
    for name in names:
        block = re.match(r'((?:.+\.)?stages\.\d+(?:\.blocks)?)\.(\d+)\.', name)
        if block is None:
            continue
        try:
            stage = module.get_submodule(block[1])
        except AttributeError:
            continue
        if block[2] not in dict(stage.named_children()):
            raise UserError(
                f'{source} is of a deeper network: it has {block[1]}.{block[2]}, which '
                f'{type(module).__name__} does not'
            )


def check_checkpoint(path: str) -> None:
    """Check that a local file is a readable checkpoint; URLs are left to the runner.

    Raises:
        UserError: As :func:`read_checkpoint`.
    """
    if '://' not in path:
        read_checkpoint(path, 'meta')


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
        for key, dataset in _leaf_datasets(f'{part}_dataloader.dataset', loader.get('dataset')):
            if not _is_local(dataset) or _downloads_itself(dataset):
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
            if isinstance(ann, str) and _is_local(evaluator) and not os.path.exists(ann):
                raise UserError(
                    f'{part}_evaluator: ann_file {ann!r} not found; say where it is with '
                    f'--cfg-options {part}_evaluator.ann_file=...'
                )


def _leaf_datasets(key: str, dataset: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Look through wrappers such as RepeatDataset and ConcatDataset; with each one's dotted key."""
    if not isinstance(dataset, Mapping):
        return
    if 'dataset' in dataset:
        yield from _leaf_datasets(f'{key}.dataset', dataset['dataset'])
    elif 'datasets' in dataset:
        for i, inner in enumerate(dataset['datasets']):
            yield from _leaf_datasets(f'{key}.datasets.{i}', inner)
    else:
        yield key, dataset


def _is_local(config: Mapping[str, Any]) -> bool:
    backend = config.get('backend_args') or {}
    paths = [config.get('data_root'), config.get('ann_file')]
    return backend.get('backend', 'local') == 'local' and not any('://' in str(p) for p in paths)


def _downloads_itself(dataset: Mapping[str, Any]) -> bool:
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
