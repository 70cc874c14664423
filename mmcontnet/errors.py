"""Errors that users see as one line, how command lines print them, and the check of choices."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

#: Set to 1, command lines show the traceback behind a one-line error, as ``--traceback`` does.
TRACEBACK_VARIABLE = 'MMCONTNET_TRACEBACK'


class UserError(Exception):
    """A mistake that the user can mend; the message says in one line what is wrong and where."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or that is not what it should be."""


class WeightMismatchError(CheckpointError):
    """Weights that can be read but do not fit the model, or hold NaN or infinity."""


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise a ValueError that names the choices unless ``value`` is one of them."""
    if value not in choices:
        raise ValueError(f'{name} must be one of {", ".join(map(repr, choices))}, got {value!r}')


def add_traceback_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--traceback``, which :func:`exit_on_user_error` looks for in the environment."""
    parser.add_argument(
        '--traceback',
        action=_SetTraceback,
        nargs=0,
        help=f'show the traceback behind a one-line error (or set {TRACEBACK_VARIABLE}=1)',
    )


class _SetTraceback(argparse.Action):
    def __call__(self, *args: object, **kwargs: object) -> None:
        os.environ[TRACEBACK_VARIABLE] = '1'  # worker processes inherit it


@contextmanager
def exit_on_user_error(tool: str, *, silent: bool = False) -> Iterator[None]:
    """End a command line with status 1 and one line on stderr where a :class:`UserError` is raised.

    Everything else is a defect of the program, and keeps its traceback.

    Args:
        tool: Name of the command line, for the message.
        silent: Say nothing, for all but the first of several processes.
    """
    try:
        yield
    except UserError as error:
        if os.environ.get(TRACEBACK_VARIABLE) == '1':
            raise
        # What other libraries say, which a message may quote, can have several lines.
        line = ' '.join(filter(None, map(str.strip, str(error).splitlines())))
        sys.exit(1 if silent else f'{tool}: error: {line}')
