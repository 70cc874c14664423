"""Write checkpoints that stay intact if the run is killed or the disk is full."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..errors import UserError

#: Name of :class:`AtomicBackend` for ``backend_args=dict(backend=...)``.
ATOMIC = 'mmcontnet_atomic'


@register_backend(ATOMIC)
class AtomicBackend(LocalBackend):
    """Local files that appear, or are replaced, only when they are complete.

    mmengine's CheckpointHook removes the oldest checkpoint before it writes the next one. Here a
    removed file stays until the next file in its folder is complete.
    """

    # Not of the instance: mmengine makes one for the hook and one for each file.
    _removed: ClassVar[defaultdict[str, set[str]]] = defaultdict(set)

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file, then delete what was removed from its folder."""
        path = os.path.abspath(filepath)
        removed = self._removed.pop(os.path.dirname(path), set())
        # The same name each time, so that a resumed run overwrites what a killed run left.
        partial = f'{path}.partial'
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(partial, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(partial)
            raise UserError(f'cannot write {str(filepath)!r}: {error.strerror}') from error
        for old in removed - {path}:
            with suppress(FileNotFoundError):
                os.remove(old)

    def remove(self, filepath: str | Path) -> None:
        """Delete a file with the next :meth:`put` into its folder."""
        path = os.path.abspath(filepath)
        self._removed[os.path.dirname(path)].add(path)


def write_checkpoints_atomically(runner: Runner) -> None:
    """Make the checkpoint hooks of a runner write through :class:`AtomicBackend`.

    Hooks with a storage backend of their own, or a folder that is not local, keep it.
    """
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and '://' not in str(hook.out_dir):
            if hook.backend_args is None and hook.file_client_args is None:
                hook.backend_args = {'backend': ATOMIC}


@contextmanager
def owner_of(work_dir: str) -> Iterator[None]:
    """Hold the work dir of a training: a second one would remove the checkpoints of the first.

    What a killed training has left of a checkpoint goes, and a new folder that stays empty.

    Raises:
        UserError: If another process holds it, or nothing can be written there.
    """
    folder, note = Path(work_dir), Path(work_dir, 'last_checkpoint')
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(note) and not note.is_file():
                raise UserError(f'{str(note)!r} is no file, or a link to nothing: delete it')
            file = stack.enter_context(open(folder / '.owner', 'a+'))
            try:
                # Not flock, which processes that load data would hold on to for some seconds.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                file.seek(0)
                raise UserError(f'{work_dir!r} is in use by {file.read() or "another"}') from error
            except OSError:
                pass  # a file system without locks
            else:
                for partial in folder.glob('*.pth.partial'):
                    partial.unlink()
            file.truncate(0)
            owner = f'process {os.getpid()} on {socket.gethostname()} since {time.ctime()}'
            os.write(file.fileno(), owner.encode())  # a buffer would be written again at the end
        except FileExistsError as error:
            raise UserError(f'work dir {work_dir!r} is no folder, or a link to nothing') from error
        except OSError as error:
            raise UserError(f'cannot write into {work_dir!r}: {error.strerror or error}') from error
        try:
            yield
        finally:
            with suppress(OSError):
                if os.listdir(folder) == ['.owner']:
                    os.remove(folder / '.owner')
                    for path in new:
                        path.rmdir()
