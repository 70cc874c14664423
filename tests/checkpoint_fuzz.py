"""Make random hostile checkpoints, and read them: ``python -m tests.checkpoint_fuzz --count 3000``.

``torch.save`` writes random values of all kinds that may be read, in today's format and the one
before; then some instructions of the pickle become others, and calls get any name that is allowed.
A few files are .safetensors. Each must give plain values or one line; none may crash, run, open or
import anything, or take memory for what it merely claims to hold. Python's audit events show the
first; other calls would show by the types of what is read.
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
import tempfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
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

MIB = 2**20
NUMBERS = (0, 1, 2, 3, 8, 77, 255, -1, -8, 2**31 - 1, 2**33, 2**40, 2**62, 2**63, 2**64, 2**70)
STRINGS = (
    *('a', '', '0', '1', 'cpu', 'storage', 'latin1', 'f8', 'i4', 'b1', 'O', 'V8', '<', '>', '|'),
    *('mean', '_annealing_cos', '__init__', '__class__', '_metadata', '__array_interface__'),
    *('__reduce__', '__dict__', '__setstate__', '_log_history', 'max_length', 'x.y', 'a\nb'),
)
ALLOWED = sorted(
    {*checkpoint_file._FUNCTIONS, *checkpoint_file._OBJECTS, *checkpoint_file._ARGUMENTS}
)
FOREIGN = (
    *('os.mkdir', 'posix.system', 'builtins.eval', '__builtin__.exec', 'builtins.bytearray'),
    *('torch.FloatTensor', 'torch.Tensor', 'torch.load', 'torch._utils._rebuild_sparse_tensor'),
    *('torch._tensor._rebuild_from_type_v2', 'torch.nn.parameter.Parameter', 'numpy.memmap'),
    *('torch._utils._rebuild_qtensor', 'torch.storage._load_from_bytes', 'storage', ''),
)


class Call:
    """Unpickling calls a function, and gives the result a state."""

    def __init__(self, function: Callable, *args: Any, state: Any = None) -> None:
        self.reduced = (function, args, state)

    def __reduce__(self) -> tuple:
        return self.reduced


def dtype(code: str, order: str = '<', subarray: Any = None) -> Call:
    return Call(np.dtype, code, False, True, state=(3, order, subarray, None, None, -1, -1, 63))


def array(dtype: Any, shape: tuple[int, ...], data: bytes = b'\x41' * 8) -> Call:
    state = (1, shape, dtype, False, data)
    return Call(np.zeros(0).__reduce__()[0], np.ndarray, (0,), b'b', state=state)


def tensor(
    offset: int, size: Any, stride: Any, hooks: Any = None, state: Any = None, storage: Any = None
) -> Call:
    storage = torch.ones(2)._typed_storage() if storage is None else storage
    args = (storage, offset, size, stride, False, hooks or OrderedDict())
    return Call(torch._utils._rebuild_tensor_v2, *args, state=state)


def content(source: random.Random) -> list[Any]:
    """Make random values that a checkpoint may hold, and some that it may not."""
    choice, choices = source.choice, source.choices
    kinds = choices([*checkpoint_file._TYPES.values()], k=2)
    tensors = [torch.zeros(choice((8, 8, 8, 0, 9)), dtype=kind) for kind in kinds]
    whole = choice(tensors)
    length = choice((2,) * 20 + (0, 1, 3, 64, 65, 5000))
    among = (1, 2, 2, 4, 0, 8, 2**33, 2**62) if length < 4 else (1,) * 500 + (2**62,)
    size, stride = choices(among, k=length), choices((1, 2, 4, 0, -1, 2**62), k=length)
    offset, storage = choice((0, 0, 0, 1, -1, 2**62)), whole._typed_storage()
    code = choice((*checkpoint_file._NUMPY, 'O', 'V8', 'U4', 'M8'))
    kind = dtype(code, choice('<<<>|'), choice((None,) * 9 + ((np.dtype('f8'), (2,)),)))
    key = (*choices((0, 1, -1, 2**20, 2**61 - 1, 'a', 0.5), k=choice((0, 1, 2, 2, 16, 17))),)
    versions, interface = OrderedDict(a=whole), OrderedDict()
    versions._metadata = choice(({'': choice((dict(version=2), dict(version='2'), 3))}, 3))
    interface.__array_interface__ = {}
    values = [
        *(*tensors, whole[::2], whole[None], whole.new_empty(0, 3), versions, interface),
        tensor(offset, (*size,), (*stride,), storage=storage),
        array(kind, (choice((0, 1, 2, 2**33)), choice((1, 2))), bytes(choice((0, 1, 4, 8, 16)))),
        HistoryBuffer([1.0, 2.0], [1, 1], choice((10, 1, 10**6, 2**40, 2**62))),
        {choice((key, *key, *STRINGS)): whole},
        argparse.Namespace(a=1, device=torch.device('cuda:0')),
        *(torch.float16, torch.Size([2]), np.float64(0.5), np.int64(3), choice(METHODS)),
        *(0.5, float('nan'), True, None, b'a\xff', slice(1, 2), {1, 2}, Counter('aab')),
        *(choice(NUMBERS), choice(NUMBERS), choice(STRINGS), choice(STRINGS)),
    ]
    for _ in range(20):  # of values made before, which they share
        parts = choices(values, k=source.randint(0, 3))
        # What is called here gets another name below.
        called = Call(os.mkdir, *parts, state=choice((None, {choice(STRINGS): values[-1]})))
        values.append(choice((parts, (*parts,), dict(enumerate(parts)), called, called)))
    return [*tensors, *choices(values, k=2)]


def change(program: bytes, source: random.Random) -> bytes:
    """Replace some instructions of a pickle by others."""
    wildness = source.choice((0.0, 0.002, 0.01, 0.05, 0.2))
    instructions = list(pickletools.genops(program))
    ends = [*(start for _, _, start in instructions[1:]), len(program)]
    parts = []
    for (opcode, argument, start), end in zip(instructions, ends, strict=True):
        part = program[start:end]
        if source.random() < wildness:
            alike = another(opcode, argument, source)
            parts.append(source.choice((alike, alike, alike, b'', part + part, wild(source))))
        else:
            parts.append(name(source) if argument == f'{os.mkdir.__module__} mkdir' else part)
    return b''.join(parts)


def another(opcode: Any, argument: Any, source: random.Random) -> bytes:
    """Write an instruction with an argument of the same kind."""
    if opcode.name == 'GLOBAL':
        return name(source)
    if opcode.name in ('BINGET', 'BINPUT'):
        return opcode.code.encode('latin-1') + bytes([source.randint(0, 9)])
    if isinstance(argument, str):
        data = source.choice(STRINGS).encode()
        return b'X' + struct.pack('<I', len(data)) + data
    if isinstance(argument, int):
        return pickle.dumps(source.choice(NUMBERS), protocol=2)[2:-1]
    bare = [other.code for other in pickletools.opcodes if other.arg is None]
    return source.choice(bare).encode('latin-1')


def name(source: random.Random) -> bytes:
    module, _, attribute = source.choice(ALLOWED if source.random() < 0.95 else FOREIGN).rpartition(
        '.'
    )
    return f'c{module}\n{attribute}\n'.encode()


def wild(source: random.Random) -> bytes:
    """Write any instruction, with an argument of its kind."""
    opcode = source.choice(pickletools.opcodes)
    code, kind = opcode.code.encode('latin-1'), opcode.arg
    if kind is None:
        return code
    if kind.n == pickletools.UP_TO_NEWLINE:
        texts = ('1', '-7', '00', '01', '0x1', '2L', '9' * 5000, "'a'", 'a', 'os', '1.5')
        line = source.choice(texts).encode() + b'\n'
        return code + line + b'a\n' * ('pair' in kind.name)
    if kind.n >= 0:
        return code + bytes(source.choices((0, 1, 2, 127, 255), k=kind.n))
    size = {'1': 1, '4': 4, '8': 8}[kind.name[-1]]
    length = source.choice((0, 1, 4, 255, 256**size - 1, 256**size // 2 - 1))
    return code + (length % 256**size).to_bytes(size, 'little') + b'abcd'


def change_archive(content: bytes, source: random.Random) -> bytes:
    """Change today's format, now and then to members that are not what they say."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    changed = io.BytesIO()
    method = source.choice((zipfile.ZIP_STORED,) * 5 + (zipfile.ZIP_DEFLATED,))
    with zipfile.ZipFile(changed, 'w', method) as archive:
        for name, data in members.items():
            if name.endswith('data.pkl'):
                data = change(data, source)
            elif name.endswith('byteorder'):
                data = source.choice((data,) * 99 + (b'big',))
            elif '/data/' in name:
                data *= source.choice((1,) * 20 + (0, 1000))
            if source.random() < 0.99:
                archive.writestr(name, data)
        if source.random() < 0.05:  # the directory claims more
            for member in archive.infolist():
                member.file_size = source.choice((0, 2**31, member.file_size + 1))
                member.header_offset += source.choice((0, 0, 1, 2**20))
    return changed.getvalue()


def change_legacy(content: bytes, source: random.Random) -> bytes:
    """Change the format of torch < 1.6: five pickles, and numbers after their count."""
    stream, parts = io.BytesIO(content), []
    for i in range(5):
        start = stream.tell()
        for _ in pickletools.genops(stream):
            pass
        part = content[start : stream.tell()]
        parts.append(change(part, source) if i == 3 or source.random() < 0.02 else part)
    numbers = bytearray(stream.read())
    if numbers and source.random() < 0.05:
        numbers[:8] = source.choice((1, 2**64 - 1)).to_bytes(8, 'little')
    return b''.join(parts) + numbers


def write_safetensors(source: random.Random) -> bytes:
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
    return length.to_bytes(8, 'little') + header + bytes(range(24))


def make_file(seed: int) -> bytes:
    """Make the random file of a seed, of which PyTorch chooses the names of storages."""
    source = random.Random(seed)
    if source.random() < 0.03:
        data = write_safetensors(source)
    else:
        legacy, stream = source.random() < 0.4, io.BytesIO()
        torch.save(content(source), stream, _use_new_zipfile_serialization=not legacy)
        data = (change_legacy if legacy else change_archive)(stream.getvalue(), source)
    if source.random() < 0.05:
        damaged = bytearray(data)
        for _ in range(source.randint(1, 4)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        data = bytes(damaged[: source.choice((None, None, len(damaged) // 2))])
    return data


METHODS = (OneCycleParamScheduler._annealing_cos, OneCycleParamScheduler._annealing_linear)
NUMPY = {type(np.dtype(code)) for code in checkpoint_file._NUMPY}
PLAIN = (str, int, float, bool, bytes, type(None), slice, torch.dtype, *NUMPY)


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
        limit = pages * resource.getpagesize() + 512 * MIB
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for seed in range(args.first, args.first + args.count):
            Path('seed').write_text(str(seed))
            file.write_bytes(make_file(seed))
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
