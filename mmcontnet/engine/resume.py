"""What a killed run leaves behind is whole, and the next run goes on from it.

mmengine writes a checkpoint in place, and removes the one before it first, so that a run which is
killed meanwhile, or finds the disk full, may leave none. Importing this module makes it write
beside, rename, and remove afterwards.
"""

from __future__ import annotations

import copy
import os
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from ..checkpoint import read_checkpoint
from ..errors import UserError
from .distributed import is_first_process

_NAME = re.compile(r'(?:epoch|iter)_(\d+)\.pth')


@register_backend('local', force=True, prefixes='')
class _WholeFiles(LocalBackend):
    """Files appear, or are replaced, once they are whole."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        # Always the same name: a killed run's is overwritten by the one that goes on.
        partial = f'{filepath}.partial'
        try:
            os.makedirs(os.path.dirname(filepath) or '.', exist_ok=True)
            with open(partial, 'wb') as file:
                file.write(obj)
                if str(filepath).endswith('.pth'):  # and not for each picture
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(partial, filepath)
        except OSError as error:
            with suppress(OSError):
                os.unlink(partial)
            raise UserError(f'cannot write {str(filepath)!r}: {error.strerror}') from error


@HOOKS.register_module(name='CheckpointHook', force=True)
class _CheckpointHook(CheckpointHook):
    """Removes the checkpoint that is one too many when the new one is there."""

    file_backend: Any

    @contextmanager
    def _removing_afterwards(self) -> Iterator[None]:
        backend = self.file_backend
        outdated: list[str] = []
        self.file_backend = copy.copy(backend)
        self.file_backend.remove = outdated.append
        try:
            yield
        finally:
            self.file_backend = backend
        kept = [self.last_ckpt, getattr(self, 'best_ckpt_path', None)]
        kept += getattr(self, 'best_ckpt_path_dict', {}).values()
        for path in outdated:
            if path not in kept:  # written anew under the same name
                backend.remove(path)

    def _save_checkpoint_with_step(self, *args: Any, **kwargs: Any) -> None:
        with self._removing_afterwards():
            super()._save_checkpoint_with_step(*args, **kwargs)

    def _save_best_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self._removing_afterwards():
            super()._save_best_checkpoint(*args, **kwargs)


def prepare_resume(cfg: Config) -> bool:
    """Choose the checkpoint to go on from, and give the new run the seed of the old.

    Args:
        cfg: The whole config. Without ``load_from``, the last whole checkpoint of ``work_dir`` is
            set there, if there is any; what is broken is named on the standard error.

    Returns:
        Whether there is a checkpoint.

    Raises:
        UserError: If the checkpoint is broken or does not hold what a training saves, or if all
            checkpoints of the work dir are broken. The weights are not compared with the model.
    """
    cfg.load_from = cfg.get('load_from') or _find_checkpoint(Path(cfg.work_dir))
    if cfg.load_from is None:
        return False
    source = f'cannot resume from {cfg.load_from!r}'
    if '://' in cfg.load_from:
        raise UserError(f'{source}: give a local file')
    content = _read_whole(cfg.load_from)
    entries = ('meta', 'message_hub', 'state_dict', 'optimizer')
    if missing := [name for name in entries if not isinstance(content.get(name), Mapping)]:
        raise UserError(
            f'{source}, which holds no {", ".join(missing)} as a training saves it; to start from '
            'its weights, --cfg-options load_from=CHECKPOINT'
        )
    meta = content['meta']
    if not isinstance(meta.get('epoch'), int) or not isinstance(meta.get('iter'), int):
        raise UserError(f'{source}: its meta does not say epoch and iter')
    if 'config' in meta:
        raise UserError(f'{source}: its meta.config is a program, which mmengine would run')
    # mmengine takes it too late for the order of the samples.
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') is None:
        cfg.randomness = {**randomness, 'seed': meta.get('seed')}
    return True


def _find_checkpoint(work_dir: Path) -> str | None:
    note = work_dir / 'last_checkpoint'
    noted = note.read_text(errors='replace').strip() if note.is_file() else ''
    last = work_dir / Path(noted).name
    if not last.is_file() and os.path.isfile(noted):  # by the config's out_dir
        last = Path(noted)
    folder = last.parent if last.is_file() else work_dir
    numbers = {
        path: int(match[1])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _NAME.fullmatch(path.name))
    }
    order = sorted(numbers, key=lambda path: (path.stat().st_mtime_ns, numbers[path]), reverse=True)
    if last in numbers:
        # Copies of files have times of their own. Later numbers are of an earlier run, unless this
        # run was killed before it noted them.
        since = note.stat().st_mtime_ns
        order = [
            path
            for path in sorted(order, key=lambda path: numbers[path], reverse=True)
            if numbers[path] <= numbers[last] or path.stat().st_mtime_ns > since
        ]
    elif last.is_file():
        order.insert(0, last)  # of a name of the config's
    faults = []
    if noted and not last.is_file() or note.is_file() and not noted:
        faults.append(f'{str(note)!r} names {noted!r}, which is no file')
    for path in order:
        try:
            _read_whole(str(path))
        except UserError as error:
            faults.append(str(error))
            continue
        if faults and is_first_process():
            print('\n'.join([*faults, f'going on from {str(path)!r}']), file=sys.stderr)
        return str(path)
    if faults:
        raise UserError(f'no whole checkpoint in {str(folder)!r}: {"; ".join(faults)}')
    return None


def _read_whole(path: str) -> dict[str, Any]:
    """Read a checkpoint, and compare its bytes with their check sums."""
    content = read_checkpoint(path, mmap=True)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise UserError(f'checkpoint {path!r} is damaged at {damaged}')
    if not isinstance(content, dict):
        raise UserError(f'checkpoint {path!r} holds no dict')
    return content
