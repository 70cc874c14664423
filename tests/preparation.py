"""For tests of tools/prepare_*.py: the scripts as modules and as processes."""

import importlib
import subprocess
import sys
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


def run_for_real(name: str, target: Path) -> str:
    """Run tools/NAME.py with the real package; return what it printed."""
    command = [sys.executable, TOOLS / f'{name}.py', target]
    made = subprocess.run(command, capture_output=True, text=True)
    if 'is there a network' in made.stderr:
        pytest.skip('needs the package index, which cannot be reached')
    assert made.returncode == 0, made.stderr
    return made.stdout
