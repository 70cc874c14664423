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
    """Return what the configs cost, and what their papers print for it.

    Returns:
        By file name in ``configs/``: ``shape`` (height and width in pixels), ``ours`` (the fields
        of :class:`mmcontnet.analysis.complexity.Cost`), and, if the paper prints counts, ``paper``:
        ``parameters``, ``multiply_adds`` and their ``source``. Configs that train the network of
        another config also have its name, ``same_network_as``. Configs for small data have no
        figures.
    """
    figures: dict[str, dict[str, Any]] = {}
    for family, content in read_results()['families'].items():
        for name, entry in content['configs'].items():
            if other := entry.get('same_network_as'):
                figures[name] = figures[other] | {'same_network_as': other}
            elif 'ours' in entry:
                figures[name] = {'shape': entry['shape'], 'ours': {**entry['ours']}}
                figures[name]['ours'].setdefault('attention', 0)
                paper = entry.get('paper', {})
                if printed := {k: paper[k] for k in figures[name]['ours'] if k in paper}:
                    source = paper.get('counts_in') or paper['source']
                    figures[name]['paper'] = printed | {'source': f'{family}, {source}'}
    return figures
