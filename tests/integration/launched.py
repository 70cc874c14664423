"""What a process does that runs a tool and has its imports already."""

import atexit
import os
import resource
import runpy
import sys
from pathlib import Path

import torch


def work(
    script: str,
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    output: Path,
    size: int | None,
) -> None:
    """Become the process of ``python SCRIPT ARGUMENTS``; see :func:`cli.launch`."""
    with output.open('wb') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if 'OMP_NUM_THREADS' in environment:
        torch.set_num_threads(int(environment['OMP_NUM_THREADS']))
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    try:
        runpy.run_path(script, run_name='__main__')
    finally:
        # Processes of `multiprocessing` leave this out.
        atexit._run_exitfuncs()
