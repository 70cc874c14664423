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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from .checkpoints import read_checkpoint
from .config import UserError
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


def prepare_resume(cfg: Config) -> None:
    """Choose the checkpoint to go on from, and give the new run the seed of the old.

    Args:
        cfg: The whole config. Without ``load_from``, the last whole checkpoint of ``work_dir`` is
            set there, if there is any; what is broken is named on the standard error.

    Raises:
        UserError: If the checkpoint is broken, holds no more than weights, or NaN, or if all
            checkpoints of the work dir are broken.
    """
    cfg.load_from = cfg.get('load_from') or _find_checkpoint(Path(cfg.work_dir))
    if cfg.load_from is None or '://' in cfg.load_from:
        return
    content = _read_whole(cfg.load_from)
    missing = {'meta', 'message_hub', 'state_dict', 'optimizer'} - set(content)
    if missing:
        raise UserError(
            f'cannot resume from {cfg.load_from!r}, which holds no {", ".join(sorted(missing))}; '
            'to start from its weights, --cfg-options load_from=CHECKPOINT'
        )
    diverged = [name for name, value in content['state_dict'].items() if value.isnan().any()]
    if diverged:
        raise UserError(
            f'cannot resume from {cfg.load_from!r}, which holds NaN in {len(diverged)} tensors '
            f'({diverged[0]}): the training diverged; go on from an earlier one with --resume '
            'CHECKPOINT'
        )
    # mmengine takes it too late for the order of the samples.
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') is None:
        cfg.randomness = {**randomness, 'seed': content['meta'].get('seed')}


def _find_checkpoint(work_dir: Path) -> str | None:
    note = work_dir / 'last_checkpoint'
    noted = note.read_text().strip() if note.is_file() else ''
    if '://' in noted:
        return noted
    # The work dir may have been moved since, or checkpoints be elsewhere.
    folder = Path(noted).parent if os.path.isfile(noted) else work_dir
    last = folder / Path(noted).name
    numbers = {
        path: int(match[1])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _NAME.fullmatch(path.name))
    }
    order = sorted(numbers, key=lambda path: numbers[path], reverse=True)
    if last in numbers:
        # Those after it are of an earlier run, unless this run was killed before it noted them.
        since = note.stat().st_mtime_ns
        order = [
            path
            for path in order
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
