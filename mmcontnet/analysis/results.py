"""What this project's networks cost, and what their papers report."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def read_results() -> dict[str, Any]:
    """Read ``results.yml``, whose first comment describes its fields; do not change the result."""
    return yaml.safe_load(Path(__file__).with_name('results.yml').read_text())


def read_figures() -> dict[str, dict[str, Any]]:
    """Return what the configs cost.

    Returns:
        By file name in ``configs/``: ``shape`` (height and width in pixels) and ``ours`` (fields of
        :class:`mmcontnet.analysis.complexity.Cost`). Configs that train the network of another
        config also have its name, ``same_network_as``. Configs for small data have no figures.
    """
    figures: dict[str, dict[str, Any]] = {}
    for family in read_results()['families'].values():
        for name, entry in family['configs'].items():
            if other := entry.get('same_network_as'):
                figures[name] = {**figures[other], 'same_network_as': other}
            elif 'ours' in entry:
                figures[name] = {'shape': entry['shape'], 'ours': {'attention': 0, **entry['ours']}}
    return figures
