"""Errors and warnings about data, and how they are reported."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple


class Issue(NamedTuple):
    """A mistake in a file or in an entry of it.

    Attributes:
        category: What is wrong, in the plural.
        location: The file and the entry; empty if the config is wrong.
        message: What is there.
        warning: Whether training leaves it out, or takes it as it is.
    """

    category: str
    location: str
    message: str = ''
    warning: bool = False

    def __str__(self) -> str:
        return ': '.join(filter(None, (self.location, self.message)))


def count_errors(found: Iterable[Issue]) -> int:
    """The number of issues that are no warnings."""
    return sum(not issue.warning for issue in found)


def report_issues(issues: Mapping[str, Sequence[Issue]]) -> int:
    """Print issues to the standard error by category: twenty of each, or one if it is a warning.

    Args:
        issues: Those of each data set, by its dotted key in the config.

    Returns:
        The number of issues without the warnings.
    """
    for key, found in issues.items():
        for category, lines in _by_category(found, warning=False):
            more = [f'... and {len(lines) - 20} more'] * (len(lines) > 20)
            text = '\n    '.join([f'{key}: {len(lines)} {category}:', *lines[:20], *more])
            print(text, file=sys.stderr)
        for category, lines in _by_category(found, warning=True):
            print(f'{key}: warning: {_summary(category, lines)}', file=sys.stderr)
    return sum(map(count_errors, issues.values()))


def summarise_issues(issues: Mapping[str, Sequence[Issue]], *, warning: bool) -> list[str]:
    """Put the warnings, or the others, into a line for each data set and category."""
    return [
        f'{key}: {_summary(*group)}'
        for key, found in issues.items()
        for group in _by_category(found, warning)
    ]


def _by_category(found: Iterable[Issue], warning: bool) -> Iterator[tuple[str, list[str]]]:
    groups = defaultdict(list)
    for issue in found:
        if issue.warning is warning:
            groups[issue.category].append(str(issue))
    yield from groups.items()


def _summary(category: str, lines: Sequence[str]) -> str:
    several = f'{len(lines)} {category}, e.g. {lines[0]}'
    return several if lines[1:] else f'{category}: {lines[0]}'


def shorten(names: Iterable[object]) -> str:
    """List names, the first five of many."""
    texts = [str(name) for name in names]
    return ', '.join(texts[:5]) + (f' and {len(texts) - 5} more' if len(texts) > 5 else '')
