"""For tests of tools/prepare_*.py: the scripts as modules, and a pip that "downloads" our wheel."""

import importlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[1] / 'tools'


def load_tool(name: str) -> ModuleType:
    """Import tools/NAME.py as it is imported when it is run: with tools/ on the path."""
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TOOLS))


def serve(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> list[list[str]]:
    """Have pip "download" a wheel of these files; return the list in which its calls are kept."""
    calls = []
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)

    def download(command: list[str], **kwargs: object) -> subprocess.CompletedProcess:
        calls.append(command)
        folder = Path(command[command.index('--dest') + 1])
        (folder / 'package.whl').write_bytes(wheel.getvalue())
        return subprocess.CompletedProcess(command, 0, '', '')

    monkeypatch.setattr(load_tool('_prepare').subprocess, 'run', download)
    return calls


def run_for_real(name: str, target: Path) -> str:
    """Run tools/NAME.py with the real package; return what it printed."""
    command = [sys.executable, TOOLS / f'{name}.py', target]
    made = subprocess.run(command, capture_output=True, text=True)
    if 'is there a network' in made.stderr:
        pytest.skip('needs the package index, which cannot be reached')
    assert made.returncode == 0, made.stderr
    return made.stdout
