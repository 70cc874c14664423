"""Run the project's command lines as a user does."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from . import launched

ROOT = Path(__file__).parents[2]
LIMIT = 900  # seconds


def launch(
    *command: object, cwd: Path, env: dict[str, str] | None = None, size: int | None = None
) -> subprocess.CompletedProcess:
    """Run tools/COMMAND[0] with this Python in ``cwd``; all output is in ``stdout``.

    Tools in Python are forked from a server that has the imports, which take ten seconds; launchers
    are started as they are, and start such tools as they are.

    Args:
        command: File in tools/, and its arguments.
        cwd: Working directory.
        env: Added to the environment.
        size: Bytes that a file may have, for tools in Python.
    """
    tool, *arguments = (str(part) for part in command)
    script = str(ROOT / 'tools' / tool)
    environment = {**os.environ, 'PYTHON': sys.executable, **(env or {})}
    if tool.endswith('.sh'):
        return subprocess.run(
            [script, *arguments],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
        )
    with TemporaryDirectory() as folder:
        output = Path(folder) / 'output'
        process = multiprocessing.get_context('forkserver').Process(
            target=launched.work, args=(script, arguments, cwd, environment, output, size)
        )
        process.start()
        process.join(LIMIT)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, LIMIT)
        return subprocess.CompletedProcess(command, process.exitcode, output.read_text())


def run(
    *command: object, cwd: Path, env: dict[str, str] | None = None, ok: bool = True
) -> subprocess.CompletedProcess:
    """Launch, and check that the command succeeds, or that it fails."""
    result = launch(*command, cwd=cwd, env=env)
    assert (result.returncode == 0) is ok, result.stdout[-6000:]
    return result
