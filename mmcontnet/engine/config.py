"""Read a config file the way the command lines do."""

from __future__ import annotations

import argparse
import io
import os
import re
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from ..errors import UserError


class ConfigOptions(DictAction):
    """``--cfg-options``; what is no ``KEY=VALUE`` is a mistake on the command line."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Read the options."""
        try:
            super().__call__(parser, namespace, values, option_string)
        except (ValueError, AssertionError) as error:
            raise argparse.ArgumentError(self, f'must be KEY=VALUE, got {values}') from error


def resources() -> Path:
    """Return the folder of ``configs/``, ``tools/`` and ``model-index.yml``."""
    package = Path(__file__).parents[1]
    installed = package / '.mim'  # of a wheel or an editable install
    return installed if installed.is_dir() else package.parent


def find_config(name: str) -> str:
    """Find a config by a name instead of a path.

    Args:
        name: A config of this project (``cont_m_8xb64_in1k``), a variant, which stands for its
            ImageNet classifier (``cont_m`` for the same config), or a model of mmpretrain's index
            (``resnet50_8xb32_in1k``).

    Returns:
        The path of the config.

    Raises:
        UserError: If there is none of that name.
    """
    not_found = f'config {name!r} not found'
    if os.path.basename(name) != name or name.endswith('.py'):
        raise UserError(not_found)  # a path
    configs = {path.stem: str(path) for path in sorted((resources() / 'configs').glob('*.py'))}
    variants = {
        match[1]: path
        for stem, path in configs.items()
        if (match := re.fullmatch(r'(.+?)_\d+xb\d+_in1k', stem))
    }
    if found := configs.get(name) or variants.get(name):
        return found
    if find_spec('mmpretrain'):
        from mmpretrain.apis import ModelHub

        with suppress(ValueError):
            return ModelHub.get(name).config.filename
    known = ', '.join(variants)
    raise UserError(f"{not_found}; it is neither a model of mmpretrain's nor a variant ({known})")


def load_config(
    path: str,
    options: Mapping[str, Any] | None = None,
    *,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Config:
    """Load a config, apply what the command line says, and enter the config's scope.

    Args:
        path: Config file, or ``mmdet::...``, ``mmseg::...`` or ``mmpretrain::...`` for one that
            these packages install, or a name that :func:`find_config` knows.
        options: ``--cfg-options``, dotted names to values.
        work_dir: Folder of logs and checkpoints; None takes the config's, or
            ``work_dirs/<name of the config>``.
        launcher: ``'none'``, ``'pytorch'`` or ``'slurm'``.

    Raises:
        UserError: If the file is missing or cannot be read, or an option does not fit into it.
    """
    if path.startswith('mmseg::') and (mmseg := find_spec('mmseg')) and mmseg.origin:
        # mmengine would look for upstream's distribution, and ask to install that over onedl's.
        configs = os.path.join(os.path.dirname(mmseg.origin), '.mim', 'configs')
        path = os.path.join(configs, path.removeprefix('mmseg::'))
    if '::' not in path and not os.path.isfile(path):
        path = find_config(path)
    try:
        # Of the packages' own configs mmengine finds the files as bases only.
        inherited = f'_base_ = {path!r}'
        cfg = Config.fromstring(inherited, '.py') if '::' in path else Config.fromfile(path)
    # A config is a program: whatever it raises is a mistake in it, or in what it inherits from.
    except Exception as error:
        reason = f'{type(error).__name__}: {error}'
        raise UserError(f'cannot read config {path!r}{_place_of(error)}: {reason}') from error
    try:
        cfg.merge_from_dict(dict(options or {}))
    except (KeyError, TypeError, IndexError, AttributeError, AssertionError) as error:
        raise UserError(f'--cfg-options do not fit config {path!r}: {error}') from error
    _check_kinds(cfg)
    name = os.path.splitext(os.path.basename(path))[0]
    cfg.work_dir = work_dir or cfg.get('work_dir') or os.path.join('work_dirs', name)
    cfg.launcher = launcher
    # As the runner does later: what checks look up is found as the runner will find it.
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    if cfg.get('default_scope') == 'mmpretrain':
        # mmpretrain's configs leave these to its own command lines.
        for part in ('train', 'val', 'test'):
            loader = cfg.get(f'{part}_dataloader')
            if loader is not None:
                loader.setdefault('collate_fn', dict(type='default_collate'))
                loader.setdefault('pin_memory', True)
                loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
    return cfg


def import_datasets(cfg: Config) -> None:
    """Import the data sets of a config's scope without what that prints.

    onedl's packages try to import data sets of a package called onedl, and tell that they could not
    by mmengine's ``print_log`` with no logger, which no log level or filter can stop.
    """
    # A package that is missing or broken is told by what needs it.
    with redirect_stdout(io.StringIO()), suppress(ImportError):
        import_module(f'{cfg.get("default_scope")}.datasets')


def _check_kinds(cfg: Config) -> None:
    """Check that what the runner takes is of the kinds that it says."""
    for key, hint in get_type_hints(Runner.__init__).items():
        kinds = tuple(get_origin(kind) or kind for kind in get_args(hint) or (hint,))
        kinds += (tuple,) * (list in kinds) + (int,) * (key == 'log_level')
        if key != 'cfg' and cfg.get(key) is not None and not isinstance(cfg[key], kinds):
            names = [kind.__name__ for kind in kinds if kind.__module__ == 'builtins']
            accepted = ' or '.join(name for name in names if name != 'NoneType')
            raise UserError(f'{key} must be of type {accepted}, got {cfg[key]!r:.100}')


def _place_of(error: Exception) -> str:
    """Say in which file and line a config, or a module that it imports, raised an exception."""
    # Both run at the top level of a file. What mmengine raises by itself has no such place.
    place = ''
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.name == '<module>':
            place = f' at {frame.filename}:{frame.lineno}'
    return place
