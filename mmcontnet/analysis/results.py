"""The figures of this project's configs: ours, and the papers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_figures() -> dict[str, dict[str, Any]]:
    """Read the figures of this project's configs: ours, and the papers' with their source table.

    Returns:
        By file name in ``configs/``: ``shape`` (height and width in pixels), ``ours`` (the fields
        of :class:`mmcontnet.analysis.complexity.Cost`), and ``paper`` (``parameters`` and
        ``multiply_adds`` as printed, and their ``source``) where a paper prints any.
    """
    return json.loads(Path(__file__).with_name('figures.json').read_text())
