"""What a process does that runs a tool and may have its imports already."""

import multiprocessing
import os
import random
import runpy
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch


def work(
    script: str,
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    output: Connection,
) -> None:
    """Become the process of ``python SCRIPT ARGUMENTS``; see :func:`cli.launch`."""
    os.setsid()
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    output.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # Not as in the process that this is a fork of.
    multiprocessing.set_start_method(None, force=True)
    random.seed()
    np.random.seed()
    torch.seed()
    if 'OMP_NUM_THREADS' in environment:
        torch.set_num_threads(int(environment['OMP_NUM_THREADS']))
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name='__main__')
