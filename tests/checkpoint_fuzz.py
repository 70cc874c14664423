"""Make random hostile checkpoints, and read them: ``python -m tests.checkpoint_fuzz --count 3000``.

The files hold pickles of every instruction and every name that is allowed, mostly used as
``torch.save`` would and now and then not, in today's format and the one before, and .safetensors.
Each must give plain values or one line; none may crash, run, open or import anything, or take
memory for what it merely claims to hold. Python's audit events show the first; other calls would
show by the types of what is read.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import pickletools
import random
import resource
import struct
import sys
import tempfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from mmcontnet import checkpoint_file
from mmcontnet.checkpoint import read_checkpoint
from mmcontnet.errors import CheckpointError

MIB = 2**20
NUMBERS = (0, 1, 2, 3, 8, 77, 255, -1, -8, 2**31 - 1, 2**33, 2**40, 2**62, 2**63, 2**64, 2**70)
STRINGS = (
    'a',
    '',
    '0',
    '1',
    'cpu',
    'storage',
    'latin1',
    'f8',
    'i4',
    'b1',
    'O',
    'V8',
    '<',
    '>',
    '|',
)
STRINGS += ('mean', '_annealing_cos', '__init__', '__class__', '_metadata', '__array_interface__')
STRINGS += ('__reduce__', '__dict__', '__setstate__', '_log_history', 'max_length', 'x.y', 'a\nb')
STORAGES = sorted(checkpoint_file._STORAGES)
ALLOWED = sorted(
    {*checkpoint_file._FUNCTIONS, *checkpoint_file._OBJECTS, *checkpoint_file._ARGUMENTS}
)
FOREIGN = (
    *('os.mkdir', 'posix.system', 'builtins.eval', '__builtin__.exec', 'builtins.bytearray'),
    *('torch.FloatTensor', 'torch.Tensor', 'torch.load', 'torch._utils._rebuild_sparse_tensor'),
    *('torch._tensor._rebuild_from_type_v2', 'torch.nn.parameter.Parameter', 'numpy.memmap'),
    *('torch._utils._rebuild_qtensor', 'torch.storage._load_from_bytes', 'storage', ''),
)


class Program:
    """Writes the instructions of a random pickle."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self.wildness = source.choice((0.0, 0.002, 0.01, 0.05, 0.2))
        self.memo = 0
        self.storages = {
            key: (source.choice(STORAGES), source.choice((8,) * 40 + (1, 0, 9, 77, 2**40, -1)))
            for key in '01'
        }

    def whole(self) -> bytes:
        """Write a pickle of one value, which refers to both storages."""
        return b'\x80\x02' + self.storage('0') + self.storage('1') + self.value(0) + b'\x87.'

    def value(self, depth: int) -> bytes:
        """Write what leaves one value on the stack, unless it goes wild."""
        if self.random.random() < self.wildness:
            return self.wild(depth)
        deep: list[Callable[[int], bytes]] = [
            self.list,
            self.dict,
            self.tuple,
            self.call,
            self.call,
        ]
        flat = [self.number, self.string, self.constant, self.float, self.name, self.again]
        chosen = self.random.choice(flat if depth > 5 else [*deep, *deep, *flat])
        written = chosen(depth)
        if self.random.random() < 0.2:
            self.memo += 1
            written += b'q' + bytes([self.memo % 256])  # of containers, when they are complete
        return written

    def either(self, usual: bytes, depth: int) -> bytes:
        """Write what belongs here, or sometimes anything."""
        return self.value(depth + 1) if self.random.random() < self.wildness else usual

    # Atoms.

    def number(self, depth: int = 0, among: tuple[int, ...] = NUMBERS) -> bytes:
        number = self.random.choice(among)
        if 0 <= number < 256:
            return b'K' + bytes([number])
        if -(2**31) <= number < 2**31:
            return b'J' + struct.pack('<i', number)
        data = pickle.encode_long(number)
        return b'\x8a' + bytes([len(data)]) + data

    def string(self, depth: int = 0, text: str | None = None) -> bytes:
        data = (self.random.choice(STRINGS) if text is None else text).encode()
        return b'X' + struct.pack('<I', len(data)) + data

    def constant(self, depth: int) -> bytes:
        return self.random.choice((b'N', b'\x88', b'\x89', b')', b']', b'}'))

    def float(self, depth: int) -> bytes:
        return b'G' + struct.pack('>d', self.random.choice((0.5, float('nan'), float('inf'))))

    def name(self, depth: int = 0, name: str | None = None) -> bytes:
        if name is None:
            name = self.random.choice(ALLOWED if self.random.random() < 0.95 else FOREIGN)
        module, _, attribute = name.rpartition('.')
        return f'c{module}\n{attribute}\n'.encode()

    def again(self, depth: int) -> bytes:
        return b'h' + bytes([self.random.randint(1, min(self.memo, 255))]) if self.memo else b'N'

    def bytes(self, length: int) -> bytes:
        text = self.string(text=''.join(self.random.choices('\0\1a\xff', k=length)))
        return self.reduce('_codecs.encode', text, self.string(text='latin1'))

    # Containers.

    def several(self, depth: int) -> bytes:
        return b''.join(self.value(depth + 1) for _ in range(self.random.randint(0, 3)))

    def list(self, depth: int) -> bytes:
        return b'](' + self.several(depth) + b'e'

    def tuple(self, depth: int) -> bytes:
        return b'(' + self.several(depth) + b't'

    def dict(self, depth: int) -> bytes:
        keys = (self.either(self.key(), depth) for _ in range(self.random.randint(0, 3)))
        return b'}(' + b''.join(key + self.value(depth + 1) for key in keys) + b'u'

    def key(self) -> bytes:
        if self.random.random() < 0.9:
            return self.string()
        length = self.random.choice((0, 1, 2, 2, 16, 17))
        numbers = [self.number(among=(0, 1, -1, 2**20, 2**61 - 1)) for _ in range(length)]
        return self.random.choice(
            (*numbers, b'(' + b''.join([*numbers[:-1], self.string()]) + b't')
        )

    def exact_dict(self, **values: bytes) -> bytes:
        return b'}(' + b''.join(self.string(text=key) + v for key, v in values.items()) + b'u'

    # Calls, with the arguments that they have in good files.

    def reduce(self, name: str, *args: bytes, state: bytes | None = None) -> bytes:
        args = tuple(self.either(arg, 3) for arg in args)
        call = self.random.choice((b'R', b'R', b'R', b'\x81'))
        written = self.either(self.name(name=name), 3) + b'(' + b''.join(args) + b't' + call
        return written if state is None else written + self.either(state, 3) + b'b'

    def storage(self, key: str | None = None) -> bytes:
        key = key or self.random.choice('01')
        kind, length = self.storages[key]
        if self.random.random() < self.wildness:
            key, length = self.random.choice('017'), self.random.choice(NUMBERS)
        parts = [self.string(text='storage'), self.name(name=kind), self.string(text=key)]
        parts += [self.string(text='cpu'), self.number(among=(length,))]
        return b'(' + b''.join(self.either(part, 3) for part in parts) + b'tQ'

    def tensor(self, depth: int) -> bytes:
        dimensions = self.random.choice((2,) * 20 + (0, 1, 3, 64, 65, 5000))
        among = (1, 2, 2, 4, 0, 8, 2**33, 2**62) if dimensions < 4 else (1,) * 500 + (2**62,)
        sizes = [self.number(among=among) for _ in range(dimensions)]
        strides = [self.number(among=(1, 2, 4, 0, -1, 2**62)) for _ in range(dimensions)]
        args = [self.storage(), self.number(among=(0, 0, 0, 1, -1, 2**62))]
        args += [b'(' + b''.join(part) + b't' for part in (sizes, strides)]
        args += [b'\x89', self.ordered_dict(9)]
        return self.reduce('torch._utils._rebuild_tensor_v2', *args)

    def ordered_dict(self, depth: int) -> bytes:
        metadata = self.exact_dict(_metadata=self.dict(depth))
        interface = self.exact_dict(__array_interface__=self.dict(depth))
        state = self.random.choice((None, None, metadata, interface))
        made = self.reduce('collections.OrderedDict', state=None)
        items = self.string() + self.value(depth + 1) + b's' if depth < 5 else b''
        return made + items + (b'' if state is None else state + b'b')

    def array_type(self) -> bytes:
        code = self.string(
            text=self.random.choice((*checkpoint_file._NUMPY, 'O', 'V8', 'U4', 'M8'))
        )
        subarray = b'(' + self.name(name='numpy.dtype') + b'(K\x02tt'
        rest = [self.either(b'N', 3), self.random.choice((b'N',) * 9 + (subarray,)), b'N']
        state = [b'K\x03', self.string(text=self.random.choice('<<<>|')), *rest[::-1]]
        state += [self.number(among=(-1, 255)), self.number(among=(-1, 8)), b'K\x00']
        full = b'(' + b''.join(state) + b't'
        return self.reduce(
            'numpy.dtype', code, b'\x89', b'\x88', state=self.random.choice((full, full, None))
        )

    def array(self, depth: int, length: int | None = None) -> bytes:
        core = self.random.choice(('core', '_core'))
        if self.random.random() < 0.2:
            data = self.bytes(self.random.choice((1, 4, 8)))
            return self.reduce(f'numpy.{core}.multiarray.scalar', self.array_type(), data)
        shape = b'(' + self.number(among=(0, 1, 2, 2**33)) + self.number(among=(1, 2)) + b't'
        shape = shape if length is None else b'(K' + bytes([length]) + b't'
        data = self.bytes(self.random.choice((0, 1, 2, 4, 8, 16)))
        parts = [b'K\x01', shape, self.array_type(), self.random.choice((b'\x88', b'\x89')), data]
        state = b'(' + b''.join(self.either(part, 3) for part in parts) + b't'
        name = f'numpy.{core}.multiarray._reconstruct'
        empty = (self.name(name='numpy.ndarray'), b'(K\x00t', self.bytes(1))
        return self.reduce(name, *empty, state=state)

    def history(self, depth: int) -> bytes:
        logs, counts = (self.array(depth, self.random.choice((1, 2))) for _ in range(2))
        length = self.number(among=(10, 1, 10**6, 2**40, 2**70, -1))
        state = dict(_log_history=logs, _count_history=counts, max_length=length)
        method = self.name(name=checkpoint_file._HISTORY)
        state['_statistics_methods'] = self.reduce('builtins.getattr', method, self.string())
        return self.reduce(checkpoint_file._HISTORY, state=self.exact_dict(**state))

    def call(self, depth: int) -> bytes:
        usual = (self.tensor, self.tensor, self.array, self.history, self.ordered_dict)
        if self.random.random() < 0.6:
            return self.random.choice(usual)(depth)
        state = self.random.choice((None, self.dict(depth)))
        args = [self.value(depth + 1) for _ in range(self.random.randint(0, 3))]
        return self.reduce(self.random.choice(ALLOWED), *args, state=state)

    def wild(self, depth: int) -> bytes:
        """Write any instruction, with an argument of its kind."""
        opcode = self.random.choice(pickletools.opcodes)
        return opcode.code.encode('latin-1') + self.argument(opcode.arg)

    def argument(self, kind: Any) -> bytes:
        if kind is None:
            return b''
        if kind.n == pickletools.UP_TO_NEWLINE:
            texts = ('1', '-7', '00', '01', '0x1', '2L', '9' * 5000, "'a'", 'a', 'os', '1.5')
            line = self.random.choice(texts).encode() + b'\n'
            return line + b'a\n' if 'pair' in kind.name else line
        if kind.n >= 0:
            return bytes(self.random.choices((0, 1, 2, 127, 255), k=kind.n))
        size = {'1': 1, '4': 4, '8': 8}[kind.name[-1]]
        length = self.random.choice((0, 1, 4, 255, 256**size - 1, 256**size // 2 - 1))
        return (length % 256**size).to_bytes(size, 'little') + b'abcd'


def write_archive(path: Path, program: Program, source: random.Random) -> None:
    """Write today's format, now and then with members that are not what they say."""
    data = bytes(range(128)) * source.choice((1, 1, 1, 10, 1000))
    method = source.choice((zipfile.ZIP_STORED,) * 5 + (zipfile.ZIP_DEFLATED,))
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w', method) as archive:
        archive.writestr('archive/data.pkl', program.whole())
        if source.random() < 0.9:
            archive.writestr('archive/byteorder', source.choice(('little',) * 99 + ('big',)))
        for key in '01':
            archive.writestr(f'archive/data/{key}', data)
        if source.random() < 0.05:  # the directory claims more
            for member in archive.infolist():
                member.file_size = source.choice((0, 2**31, member.file_size + 1))
                member.header_offset += source.choice((0, 0, 1, 2**20))
    path.write_bytes(content.getvalue())


def write_legacy(path: Path, program: Program, source: random.Random) -> None:
    """Write the format of torch < 1.6."""
    system = dict(protocol_version=1001, little_endian=source.random() < 0.99, type_sizes={})
    begin = [checkpoint_file._LEGACY_MAGIC, 1001, system]
    pickles = [pickle.dumps(part, protocol=2) for part in begin]
    keys = pickle.dumps(source.choice((['0', '1'],) * 18 + (['1', '0'], ['7'], 3)), 2)
    data = [*pickles, program.whole(), keys]
    for kind, length in program.storages.values():
        stored = source.choice((max(length, 0),) * 40 + (1, 2**64 - 1))
        size = checkpoint_file._STORAGES[kind].itemsize * min(stored, 100)
        data += [stored.to_bytes(8, 'little'), bytes(source.choices(range(256), k=size))]
    path.write_bytes(b''.join(data))


def write_safetensors(path: Path, source: random.Random) -> None:
    """Write a header that may claim anything, and some numbers."""
    dtype = source.choice((*checkpoint_file._SAFETENSORS, 'F8', 3))
    shape = source.choices((*NUMBERS, 'a', None, 2.0), k=source.randint(0, 3))
    shape = source.choice((shape,) * 9 + ([1] * 65, [2] * 5000))
    offsets = source.choices((0, 4, 8, 16, 24, 2**40, -1, 'a'), k=source.choice((2, 2, 2, 1, 3)))
    entry = source.choice([dict(dtype=dtype, shape=shape, data_offsets=offsets)] * 9 + [3])
    names = source.choices(STRINGS, k=source.choice((1, 1, 2, 9)))  # which share their place
    header = json.dumps({**dict.fromkeys(names, entry), '__metadata__': {}}).encode()
    header = source.choice((header,) * 9 + (b'{"a":' * 10**5,))
    length = source.choice((len(header),) * 9 + (2**63, 10, 0))
    path.write_bytes(length.to_bytes(8, 'little') + header + bytes(range(24)))


def write_file(path: Path, seed: int) -> None:
    """Write the random file of a seed."""
    source = random.Random(seed)
    kind = source.random()
    if kind < 0.03:
        write_safetensors(path, source)
    else:
        write = write_archive if kind < 0.6 else write_legacy
        write(path, Program(source), source)
    if source.random() < 0.05:
        content = bytearray(path.read_bytes())
        for _ in range(source.randint(1, 4)):
            content[source.randrange(len(content))] = source.randrange(256)
        path.write_bytes(content[: source.choice((None, None, len(content) // 2))])


METHODS = (OneCycleParamScheduler._annealing_cos, OneCycleParamScheduler._annealing_linear)
PLAIN = (
    str,
    int,
    float,
    bool,
    bytes,
    type(None),
    slice,
    torch.dtype,
    *{type(np.dtype(c)) for c in checkpoint_file._NUMPY},
)


def check(value: Any) -> None:
    """Check that a file gave nothing but what it may, and use all memory that it refers to."""
    if isinstance(value, torch.Tensor):
        assert type(value) is torch.Tensor and not value.requires_grad
        if value.numel() < 10**6:
            value.clone()
    elif type(value) in (list, tuple, set):
        for item in value:
            check(item)
    elif type(value) in (dict, OrderedDict, Counter):
        assert vars(value).keys() <= {'_metadata'} if type(value) is OrderedDict else True
        for key, item in (*value.items(), *getattr(value, '__dict__', {}).items()):
            check(key)
            check(item)
    elif type(value) is np.ndarray:
        assert value.dtype.kind in 'biuf' and value.nbytes < 10**6
        value.sum()
    elif type(value) is HistoryBuffer:
        check(value.data)
    else:
        assert type(value) in PLAIN or value in METHODS, type(value)


#: What Python reports of itself while a file is read; all else would be something called.
HARMLESS = ('open', 'mmap.__new__', 'object.__getattr__', 'builtins.id', 'os.listdir')


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

    sys.addaudithook(note)
    said: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        file = Path('fuzz.pth')
        torch.save({'a': HistoryBuffer([1.0], [1])}, file)
        read_checkpoint(file)  # imports what it imports
        for encoding in ('cp437', 'raw_unicode_escape'):  # of zipfile and pickletools
            b'a'.decode(encoding)
        pages = int(Path('/proc/self/statm').read_text().split()[0])
        limit = pages * resource.getpagesize() + 512 * MIB
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for seed in range(args.first, args.first + args.count):
            Path('seed').write_text(str(seed))
            write_file(file, seed)
            content = error = None
            reading = True
            try:
                content = read_checkpoint(file, mmap=seed % 2 == 0)
            except CheckpointError as raised:
                error = raised
            reading = False
            if error is None:
                check(content)
                said['read'] += 1
            else:
                assert str(error).isprintable() and len(str(error)) < 500, (seed, str(error))
                assert not isinstance(error.__cause__, MemoryError), seed
                said[str(error).partition('be read: ')[2][:60]] += 1
            assert not seen, (seed, seen)
        assert sorted(os.listdir()) == ['fuzz.pth', 'seed']
        os.chdir('/')
    for text, number in said.most_common():
        print(number, text)


if __name__ == '__main__':
    main()
