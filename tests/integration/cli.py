"""Run the project's command lines as a user does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(
    *command: object, cwd: Path, env: dict[str, str] | None = None, ok: bool = True
) -> subprocess.CompletedProcess:
    """Run tools/COMMAND[0] with this Python in ``cwd``; all output is in ``stdout``.

    Args:
        command: File in tools/, and its arguments.
        cwd: Working directory.
        env: Added to the environment.
        ok: Whether the command must succeed, or must fail.
    """
    tool, *args = (str(part) for part in command)
    start = [] if tool.endswith('.sh') else [sys.executable]
    result = subprocess.run(
        [*start, str(ROOT / 'tools' / tool), *args],
        cwd=cwd,
        env={**os.environ, 'PYTHON': sys.executable, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert (result.returncode == 0) is ok, result.stdout[-6000:]
    return result
