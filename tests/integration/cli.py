"""Run the project's command lines as a user does."""

import multiprocessing
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

import torch

from . import launched

ROOT = Path(__file__).parents[2]
LIMIT = 900  # seconds
# Forks of a process that has imported what takes ten seconds; they could not use a GPU.
START_METHOD = 'spawn' if torch.cuda.is_available() else 'forkserver'


def free_port() -> str:
    """Return a port that hardly any test running beside gets meanwhile.

    Systems give outgoing connections ports from 32768 on, those of gloo's pairs for one.
    """
    while True:
        port = secrets.choice(range(20000, 32768))  # not seeded, as other workers would be alike
        with socket.socket() as s:
            if s.connect_ex(('127.0.0.1', port)) != 0:
                return str(port)


def launch(
    *command: object, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run tools/COMMAND[0] with this Python in ``cwd``; all output is in ``stdout``.

    Launchers, and what they start, are run as they are, other tools by :mod:`launched`.

    Args:
        command: File in tools/, and its arguments.
        cwd: Working directory.
        env: Added to the environment.
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
    context = multiprocessing.get_context(START_METHOD)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=launched.work, args=(script, arguments, cwd, environment, sender)
    )
    process.start()
    sender.close()
    timer = Timer(LIMIT, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    # Until the last of its own processes has ended.
    with os.fdopen(os.dup(receiver.fileno()), encoding='utf-8') as output:
        stdout = output.read()
    timer.cancel()
    process.join()
    return subprocess.CompletedProcess(command, process.exitcode, stdout)


def run(
    *command: object, cwd: Path, env: dict[str, str] | None = None, ok: bool = True
) -> subprocess.CompletedProcess:
    """Launch, and check that the command succeeds, or that it fails."""
    result = launch(*command, cwd=cwd, env=env)
    assert (result.returncode == 0) is ok, result.stdout[-6000:]
    return result


def run_two(*command: object, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess:
    """Run a tool in two processes, without a launcher's delays; return the first one's result.

    Args:
        command: As for :func:`launch`, with ``--launcher``.
        cwd: Working directory.
        env: What the launcher gives both; their ranks are added.
    """
    names = ('SLURM_PROCID', 'SLURM_LOCALID') if 'slurm' in command else ('RANK', 'LOCAL_RANK')
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(run, *command, cwd=cwd, env={**env, **dict.fromkeys(names, rank)})
            for rank in '01'
        ]
    first, _ = (run.result() for run in runs)
    return first


def metrics(tested: subprocess.CompletedProcess) -> dict[str, float]:
    """Return what a run of test.py printed last, less the times."""
    line = tested.stdout.strip().splitlines()[-1]
    found = re.findall(r'(\S+): (-?\d+\.\d+)', line)
    return {name: float(value) for name, value in found if not name.endswith('time')}
