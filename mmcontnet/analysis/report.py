"""What the tools share: options, one-line errors, tables and JSON files."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from rich import box
from rich.console import Console
from rich.table import Table

from ..errors import UserError, add_traceback_option, exit_on_user_error


def tool_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows a tool's docstring as it is, with ``--traceback``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_traceback_option(parser)
    return parser


def positive_int(text: str) -> int:
    """Read a number of at least 1: a ``type`` for options."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {number}')
    return number


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``, for :func:`check_device`."""
    parser.add_argument('--device', help='cpu, cuda, cuda:1 ... (default: cuda if there is a GPU)')


def check_device(device: str | None) -> str:
    """Return the device that was asked for, or the default.

    Raises:
        UserError: If PyTorch cannot use it.
    """
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition('\n')[0]
        raise UserError(f'--device {device}: {reason}') from error
    return device


def hush() -> None:
    """Let the loggers of packages tell of errors alone, in this process."""
    MMLogger.get_current_instance().setLevel(logging.ERROR)  # it tells of every change of scope
    logging.getLogger('torch').setLevel(logging.ERROR)  # its exporter guesses, and says so


@contextmanager
def quiet_tool(name: str) -> Iterator[None]:
    """Run a tool: users' mistakes end it with one line, and packages say no more."""
    hush()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may have letters that ASCII lacks
        with suppress(OSError):  # of a file that has become a pipe
            sys.stdout.reconfigure(errors='backslashreplace')
    with exit_on_user_error(name), warnings.catch_warnings():
        warnings.filterwarnings('ignore', module='mm(cv|det|engine|pretrain|seg)')
        yield


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table, see :func:`markdown_table`."""
    print(markdown_table(header, rows))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table that can also be read as it is; the first column is text."""
    table = Table(*header, box=box.MARKDOWN)
    for column in table.columns[1:]:
        column.justify = 'right'
    for row in rows:
        table.add_row(*row)
    # As wide as it is, with nothing in a cell taken for markup.
    console = Console(width=1000, markup=False, emoji=False, highlight=False)
    with console.capture() as printed:
        console.print(table)
    return printed.get().strip()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Let a file be written under another name beside it, and rename it once it is whole.

    Args:
        path: The file that appears, or is replaced, if nothing fails.

    Raises:
        UserError: If it cannot be written.
    """
    partial = path.with_name(f'{path.stem[:50]}.{os.getpid()}.partial{path.suffix}')
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise UserError(f'cannot write {str(path)!r}: {error.strerror or error}') from error
    finally:
        with suppress(OSError):  # nothing to delete
            partial.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all.

    Raises:
        UserError: If the file cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + '\n')
