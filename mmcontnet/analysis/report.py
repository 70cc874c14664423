"""What the tools print for people and write for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.backend_bases import FigureCanvasBase

from ..errors import UserError

#: What matplotlib can write.
PICTURES = tuple(f'.{suffix}' for suffix in sorted(FigureCanvasBase.get_supported_filetypes()))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table that can also be read as it is; numbers are right-aligned.

    Args:
        header: Titles of the columns.
        rows: Cells; the first column is text.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return f'| {" | ".join([first, *rest])} |'

    rule = f'|{"-" * (widths[0] + 2)}|' + ''.join(f'{"-" * (w + 1)}:|' for w in widths[1:])
    return '\n'.join([line(header), rule, *map(line, rows)])


def check_out(path: Path, suffixes: Collection[str], option: str = '--out') -> None:
    """Check before any work that a file can be written.

    Args:
        path: The file.
        suffixes: Those it may have, with their dots and in lower case.
        option: Which gave the file, for the message.

    Raises:
        UserError: If it has another, or there is no such folder.
    """
    if path.suffix.lower() not in suffixes:
        raise UserError(f'{option} must be one of {", ".join(suffixes)}, got {str(path)!r}')
    if not path.resolve().parent.is_dir():
        raise UserError(f'no folder {str(path.parent)!r} for {option}')


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Let a file be written under another name beside it, and rename it once it is whole.

    Args:
        path: The file that appears, or is replaced, if nothing fails.
    """
    partial = path.with_name(f'{path.stem}.{os.getpid()}.partial{path.suffix}')
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all.

    Raises:
        OSError: If the file cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + '\n')
