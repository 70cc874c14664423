"""Files and folders that command lines write."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryFile

from .errors import UserError


def check_out(
    path: str | Path, suffixes: Collection[str] | None = None, option: str = '--out'
) -> None:
    """Check before any work that a file or a folder can be written; nothing of it is left.

    Args:
        path: A file in a folder that there must be, or a folder, which will be made.
        suffixes: Those that a file may have, with their dots and in lower case; None for a folder.
        option: Which gave the path, for the message.

    Raises:
        UserError: If it is of another kind, or if nothing can be written there.
    """
    path = place = Path(path)
    try:
        if suffixes is None:
            while not _is_there(place):
                place = place.parent
        else:
            place = path.parent
            if path.suffix.lower() not in suffixes:
                raise UserError(f'{option} must be one of {", ".join(suffixes)}, got {str(path)!r}')
            if not place.is_dir():
                raise UserError(f'no folder {str(place)!r} for {option}')
            if _is_there(path):
                if not path.is_file():
                    raise UserError(f'{option} {str(path)!r} is not a file')
                os.close(os.open(path, os.O_WRONLY))
        with TemporaryFile(dir=place) as file:
            file.write(bytes(2**16))
            file.flush()
    except OSError as error:
        raise UserError(f'{option}: cannot write {str(path)!r}: {error.strerror}') from error


def _is_there(path: Path) -> bool:
    """Tell whether there is something, if only a dangling link; raise if there cannot be."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True
