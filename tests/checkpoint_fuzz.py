"""Make random hostile checkpoints, and read them: ``python -m tests.checkpoint_fuzz --count 3000``.

``torch.save`` writes random values of all kinds that may be read, in today's format and the one
before; then instructions of the pickle are left out, doubled or replaced by others, and bytes
change. Each file must give plain values or one line; none may crash, run, open or import anything,
or take memory for what it merely claims to hold. Python's audit events show the first; other calls
would show by the types of what is read.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import pickletools
import random
import resource
import tempfile
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from sys import addaudithook
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from mmcontnet import checkpoint_file
from mmcontnet.checkpoint import read_checkpoint
from mmcontnet.errors import CheckpointError

NUMBERS = (0, 1, 2, 8, 77, -1, -8, 2**31 - 1, 2**33, 2**40, 2**62, 2**63, 2**64, 2**70)
STRINGS = (
    *('a', '', '0', 'cpu', 'storage', 'latin1', 'f8', 'b1', 'O', 'V8', '<', '>', '__class__'),
    *('mean', '_annealing_cos', '__array_interface__', '_metadata', '_log_history', 'max_length'),
)
NAMES = (
    *{*checkpoint_file._FUNCTIONS, *checkpoint_file._OBJECTS, *checkpoint_file._ARGUMENTS},
    *('os.mkdir', 'builtins.eval', 'torch.load', 'torch.storage._load_from_bytes', 'numpy.memmap'),
)
METHODS = (OneCycleParamScheduler._annealing_cos, OneCycleParamScheduler._annealing_linear)
#: What Python reports of itself while a file is read; all else would be something called.
HARMLESS = ('open', 'mmap.__new__', 'object.__getattr__', 'builtins.id', 'os.listdir')


def values() -> list[Any]:
    """Make values of all kinds that a checkpoint may hold; some share their parts."""
    tensors = [torch.ones(8, dtype=dtype) for dtype in checkpoint_file._TYPES.values()]
    versions = OrderedDict(a=tensors[0])
    versions._metadata = {'': dict(version=2)}  # type: ignore[attr-defined]
    return [
        *(*tensors, tensors[0][::2], tensors[0][None], torch.empty(0, 3), versions),
        *(np.arange(6).reshape(2, 3), np.asfortranarray(np.ones((2, 3), '>f4')), np.array([True])),
        *(HistoryBuffer([1.0, 2.0], [1, 1]), argparse.Namespace(a=1, device=torch.device('cuda'))),
        *(torch.float16, torch.Size([2]), np.float64(0.5), np.int64(3), *METHODS),
        *(0.5, True, None, b'a\xff', slice(1, 2), {1, 2}, Counter('aab'), {(1, 'a'): tensors[0]}),
        *(*NUMBERS, *STRINGS),
    ]


def instructions(program: bytes) -> list[bytes]:
    starts = [start for _, _, start in pickletools.genops(program)]
    return [program[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]


#: What may come instead of an instruction: any without an argument, any name, number or text.
OTHERS = [
    *(opcode.code.encode('latin-1') for opcode in pickletools.opcodes if opcode.arg is None),
    *('c{}\n{}\n'.format(*name.rpartition('.')[::2]).encode() for name in NAMES),
    *(pickle.dumps(value, protocol=2)[2:-1] for value in (*NUMBERS, *STRINGS, 0.5)),
    *(code + bytes([number]) for code in (b'h', b'q', b'K', b'\x80') for number in range(10)),
]


def kind(instruction: bytes) -> bytes:
    return b'int' if instruction[:1] in b'KMJ\x8a' else instruction[:1]


def change(program: bytes, source: random.Random) -> bytes:
    """Replace some instructions of a pickle, most by others that begin alike."""
    wildness = source.choice((0.0, 0.01, 0.02, 0.05, 0.2))
    parts = []
    for part in instructions(program):
        if source.random() < wildness:
            alike = [other for other in OTHERS if kind(other) == kind(part)] or OTHERS
            part = source.choice(
                (*source.choices(alike, k=3), source.choice(OTHERS), b'', 2 * part)
            )
        parts.append(part)
    return b''.join(parts)


def make_file(seed: int) -> bytes:
    """Make the random file of a seed, of which PyTorch chooses the names of storages."""
    source, stream = random.Random(seed), io.BytesIO()
    made = values()
    for _ in range(20):  # of values made before, which they share
        parts = source.choices(made, k=source.randint(0, 3))
        made.append(source.choice((parts, (*parts,), dict(enumerate(parts)))))
    legacy = source.random() < 0.4
    torch.save(source.choices(made, k=3), stream, _use_new_zipfile_serialization=not legacy)
    data = stream.getvalue()
    if legacy:  # five pickles, and numbers after their count
        stream.seek(0)
        ends = [max(-1, *(p for _, _, p in pickletools.genops(stream))) + 1 for _ in range(5)]
        data = data[: ends[2]] + change(data[ends[2] : ends[3]], source) + data[ends[3] :]
    else:
        changed = io.BytesIO()
        with zipfile.ZipFile(stream) as old, zipfile.ZipFile(changed, 'w') as new:
            for name in old.namelist():
                content = old.read(name)
                new.writestr(name, change(content, source) if 'data.pkl' in name else content)
        data = changed.getvalue()
    damaged = bytearray(data)
    for _ in range(source.choice((0,) * 9 + (4,))):
        damaged[source.randrange(len(damaged))] = source.randrange(256)
    return bytes(damaged)


def check(value: Any) -> None:
    """Check that a file gave nothing but what it may, and use all memory that it refers to."""
    kind = type(value)
    if kind is torch.Tensor:
        assert not value.requires_grad
        if value.numel() < 10**6:
            value.clone()
    elif kind in (list, tuple, set):
        for item in value:
            check(item)
    elif kind in (dict, OrderedDict, Counter):
        beside = getattr(value, '__dict__', {})
        assert kind is not OrderedDict or beside.keys() <= {'_metadata'}
        for pair in (*value.items(), *beside.items()):
            check(pair)
    elif kind is np.ndarray:
        assert value.dtype.kind in 'biuf' and value.nbytes < 10**6
        value.sum()
    elif kind is HistoryBuffer:
        check(value.data)
    else:
        plain = (str, int, float, bool, bytes, type(None), slice, torch.dtype)
        assert kind in plain or isinstance(value, np.dtype) or value in METHODS, kind


def main() -> None:
    """Read the files of many seeds, and print how many were read and what was said of others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=3000)
    parser.add_argument('--first', type=int, default=0)
    args = parser.parse_args()
    seen: set[str] = set()
    reading = False

    def note(event: str, arguments: tuple) -> None:
        if reading and event not in HARMLESS:
            seen.add(f'{event} {arguments!r:.200}')

    addaudithook(note)
    said: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        file = Path('fuzz.pth')
        torch.save({'a': HistoryBuffer([1.0], [1])}, file)
        read_checkpoint(file)  # imports what it imports
        for encoding in ('cp437', 'raw_unicode_escape'):  # of zipfile and pickletools
            b'a'.decode(encoding)
        pages = int(Path('/proc/self/statm').read_text().split()[0])
        limit = pages * resource.getpagesize() + 2**29
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for seed in range(args.first, args.first + args.count):
            file.write_bytes(make_file(seed))
            reading = True
            try:
                content = read_checkpoint(file, mmap=seed % 2 == 0)
                reading = False
                check(content)
                said['read'] += 1
            except CheckpointError as error:
                reading = False
                assert str(error).isprintable() and len(str(error)) < 500, (seed, str(error))
                assert not isinstance(error.__cause__, MemoryError), seed
                said[str(error).partition('be read: ')[2][:60]] += 1
            assert not seen, (seed, seen)
        assert os.listdir() == ['fuzz.pth']
        os.chdir('/')
    for text, number in said.most_common():
        print(number, text)


if __name__ == '__main__':
    main()
