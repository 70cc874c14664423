"""Run the project's command lines inside the test's process, which spares the imports."""

import logging
import runpy
import sys

import pytest
from mmengine.logging import MMLogger

from .integration.cli import ROOT


def run_tool(monkeypatch: pytest.MonkeyPatch, tool: str, *arguments: object) -> str | int | None:
    """Run tools/TOOL with these arguments.

    Returns:
        What it exits with: None if all is well, or the one line of a mistake.
    """
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
    # Tools silence loggers, which other tests read.
    loggers = [MMLogger.get_current_instance(), logging.getLogger('torch.onnx')]
    levels = [logger.level for logger in loggers]
    try:
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    except SystemExit as stop:
        return stop.code
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return None
