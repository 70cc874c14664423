"""Kill the process that imports this, with kill -9, at the point that KILL names.

``iter:7`` is before the eighth iteration, ``fsync:2`` in writing the second checkpoint, when half
of it is there. KILL_RANK is the process of several that is killed, 0 if not given. The file
``killed`` tells when that was.
"""

import itertools
import os
import signal
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

KIND, _, NUMBER = os.environ.get('KILL', '').partition(':')
calls = itertools.count(1)


def kill() -> None:
    if get_rank() == int(os.environ.get('KILL_RANK', '0')):
        Path('killed').touch()
        os.kill(os.getpid(), signal.SIGKILL)


def fsync(file: int) -> None:
    if KIND == 'fsync' and next(calls) == int(NUMBER):
        os.ftruncate(file, os.fstat(file).st_size // 2)
        kill()


if KIND:
    os.fsync = fsync


@HOOKS.register_module()
class Killer(Hook):
    priority = 'LOWEST'

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if KIND == 'iter' and runner.iter == int(NUMBER):
            kill()
