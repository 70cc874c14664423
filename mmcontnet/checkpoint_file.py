"""Read checkpoint files without calling or building anything that a file asks for.

``torch.save`` writes a pickle: a program for a small machine that builds objects. Here its
instructions only ever make inert values: plain containers, and records of the calls that it asks
for (:class:`_Call`), which nobody makes. Of these records, functions of ours (``_FUNCTIONS`` and
``_OBJECTS``) then make tensors, containers, and what mmengine keeps beside the weights, of numbers
that they check. What is in neither table is refused.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import pickletools
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from .errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
#: Expanded tensors may claim this many bytes in all although the file holds fewer.
_CLAIMABLE = 2**30
#: Containers in containers.
_MAX_DEPTH = 64
#: Strings and numbers in a key that is a tuple.
_MAX_KEY = 16


def _types(text: str) -> dict[str, torch.dtype]:
    pairs = (pair.split(':') for pair in text.split())
    return {name: getattr(torch, dtype) for name, dtype in pairs}


_TYPES = _types(
    'Double:float64 Float:float32 Half:float16 BFloat16:bfloat16 Long:int64 Int:int32 Short:int16 '
    'Char:int8 Byte:uint8 Bool:bool ComplexFloat:complex64 ComplexDouble:complex128'
)
#: Types of storages by the names that pickles have for them; the second was CUDA's before 1.6.
_STORAGES = {f'torch.{name}Storage': dtype for name, dtype in _TYPES.items()}
_STORAGES |= {f'torch.cuda.{name}Storage': dtype for name, dtype in _TYPES.items()}
_DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_SAFETENSORS = _types(
    'F64:float64 F32:float32 F16:float16 BF16:bfloat16 I64:int64 I32:int32 I16:int16 I8:int8 '
    'U8:uint8 BOOL:bool'
)
_NUMPY = 'b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8'.split()


def read_file(file: BinaryIO, map_tensors: bool) -> Any:
    """Read a file of ``torch.save``, of today's format or the one before, or a .safetensors file.

    Args:
        file: The open file.
        map_tensors: Leave the tensors' values in the file until they are used, where its format
            lets them be.

    Returns:
        Plain containers and tensors, and mmengine's histories and NumPy's numeric arrays.

    Raises:
        CheckpointError: If the file asks for anything else, or claims more than it holds. A broken
            file may raise any other exception.
    """
    size = file.seek(0, 2)
    if not size:
        raise CheckpointError('it is empty')
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if content[:4] == b'PK\3\4':
        return _read_archive(file, content, map_tensors)
    if content[:1] == b'\x80':
        return _read_legacy(content)
    if content[8:9] == b'{':
        return _read_safetensors(content, map_tensors)
    raise CheckpointError(
        f'it is neither a file of torch.save nor .safetensors: it begins with {content[:16]!r}'
    )


def _read_archive(file: BinaryIO, content: mmap.mmap, map_tensors: bool) -> Any:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise CheckpointError('it is cut short: its list of contents is missing') from None
    claimed = sum(max(m.file_size, m.compress_size) for m in archive.infolist())
    if claimed > 4 * len(content):
        raise CheckpointError(f'it claims {claimed:.1e} bytes, and has {len(content)}')
    names = [name for name in archive.namelist() if name.partition('/')[2] == 'data.pkl']
    if len(names) != 1:
        raise CheckpointError('it is a zip archive, but not one of torch.save (no data.pkl)')
    folder = names[0].removesuffix('data.pkl')
    if f'{folder}constants.pkl' in archive.namelist():
        raise CheckpointError('it is a TorchScript program; save the state_dict of its model')

    def read(name: str) -> bytes:
        member = archive.getinfo(folder + name)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CheckpointError(f'{name!r:.100} is packed in a way that PyTorch does not read')
        try:
            with archive.open(member) as stream:
                return stream.read(member.file_size)  # by itself zipfile unpacks all that is there
        except zipfile.BadZipFile:  # by its check sum
            raise CheckpointError(f'it is damaged at {name!r:.100}') from None

    def storage(key: str, dtype: torch.dtype, length: int) -> Tensor:
        member = archive.getinfo(f'{folder}data/{key}')
        if not map_tensors or member.compress_type != zipfile.ZIP_STORED:
            return _numbers(bytearray(read(f'data/{key}')), dtype, length, key)
        start = member.header_offset + 30  # and two texts, whose lengths are the header's last
        start += sum(int.from_bytes(content[start - n : start - n + 2], 'little') for n in (4, 2))
        return _numbers(memoryview(content)[start : start + member.file_size], dtype, length, key)

    if f'{folder}byteorder' in archive.namelist() and read('byteorder') != b'little':
        raise CheckpointError('its numbers are in big-endian order')
    program = read('data.pkl')
    return _Restorer(storage, 16 * len(program)).restore(_unpickle(io.BytesIO(program)))


def _read_legacy(content: mmap.mmap) -> Any:
    """Read the format of torch < 1.6: pickles, and after them the storages by their keys."""
    if _unpickle(content) != _LEGACY_MAGIC:
        raise CheckpointError('it is a pickle, but not one of torch.save')
    if _unpickle(content) != 1001 or _unpickle(content).get('little_endian') is not True:
        raise CheckpointError('it is of an unknown version, or its numbers are big-endian')
    types: dict[str, torch.dtype] = {}
    tree = _unpickle(content, types)
    budget = 16 * content.tell()
    places: dict[str, tuple[int, int]] = {}
    keys, end = _unpickle(content), content.tell()
    for key in keys:
        begin = end + 8
        end = begin + int.from_bytes(content[end:begin], 'little') * types[key].itemsize
        places[key] = begin, end
        if end > len(content):
            raise CheckpointError(f'storage {key!r:.50} claims more than the file holds')

    def storage(key: str, dtype: torch.dtype, length: int) -> Tensor:
        return _numbers(bytearray(content[slice(*places[key])]), dtype, length, key)

    return _Restorer(storage, budget).restore(tree)


def _read_safetensors(content: mmap.mmap, map_tensors: bool) -> dict[str, Tensor]:
    start = 8 + int.from_bytes(content[:8], 'little')
    if start > len(content):
        raise CheckpointError('its header claims more than the file holds')
    tensors = {}
    left = len(content)
    for name, entry in json.loads(content[8:start]).items():
        if name == '__metadata__':
            continue
        shape, (begin, end) = entry['shape'], entry['data_offsets']
        if entry['dtype'] not in _SAFETENSORS or not _are_sizes((*shape, begin, end - begin)):
            raise CheckpointError(f'tensor {name!r:.100} is of a type or shape that is not read')
        _check_shape(shape)
        left -= end - begin  # also of tensors that share their place
        data = memoryview(content)[start + begin : start + end]
        if left < 0 or end - begin != math.prod(shape) * _SAFETENSORS[entry['dtype']].itemsize:
            raise CheckpointError(f'tensor {name!r:.100} claims more than the file holds')
        numbers = _numbers(
            data if map_tensors else bytearray(data),
            _SAFETENSORS[entry['dtype']],
            math.prod(shape),
            name,
        )
        tensors[name] = numbers.reshape(shape)
    return tensors


def _numbers(data: Any, dtype: torch.dtype, length: int, name: str) -> Tensor:
    """Make a vector of bytes, which it then shares."""
    if length * dtype.itemsize > len(data):
        raise CheckpointError(f'storage {name!r:.100} claims more than the file holds')
    if not length:
        return torch.empty(0, dtype=dtype)
    raw = torch.frombuffer(data, dtype=torch.uint8, count=length * dtype.itemsize)
    if raw.data_ptr() % 16:  # vectorised code crashes on what is not aligned
        raw = raw.clone()
    # Of a bool any byte but 0 and 1 would be undefined behaviour.
    return raw.ne(0) if dtype == torch.bool else raw.view(dtype)


def _are_sizes(numbers: Any) -> bool:
    """Tell whether these are whole numbers that PyTorch takes for sizes, strides or offsets."""
    return type(numbers) in (tuple, list) and all(
        type(number) is int and 0 <= number < 2**62 for number in numbers
    )


def _check_shape(shape: Sequence[int]) -> None:
    """Check that PyTorch can count numbers of a shape, and has as many dimensions."""
    if len(shape) > 64 or math.prod(max(n, 1) for n in shape) >= 2**48:
        raise CheckpointError(f'it has a shape {str(shape):.100} that is larger than any can be')


class _Name(str):
    """Name of a class or function that a pickle refers to; nothing stands behind it."""


class _Call:
    """Record of an object that a pickle asks for: whose, from what, and what is put into it."""

    __slots__ = ('args', 'items', 'name', 'state')

    def __init__(self, name: str, args: tuple) -> None:
        self.name = name
        self.args = args
        self.items: dict[Any, Any] = {}
        self.state: Any = None


_LITERALS = {
    *('BININT', 'BININT1', 'BININT2', 'LONG1', 'LONG4', 'BINFLOAT'),
    *('BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINSTRING', 'SHORT_BINSTRING'),
    *('BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8'),
}
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
_ATOMS = (str, int, float, bool, type(None), bytes)


def _unpickle(stream: Any, storages: dict[str, torch.dtype] | None = None) -> Any:
    """Run a pickle, on inert values.

    Args:
        stream: File-like; left behind the pickle.
        storages: Filled with the type of each storage that the pickle refers to, by its key.

    Returns:
        Atoms, lists, tuples, dicts with atoms as keys, names and calls.
    """
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        items = []
        if name in ('APPENDS', 'SETITEMS', 'TUPLE'):  # what lies above the mark
            items, stack = stack, marked.pop()
        if name in _LITERALS:
            if type(argument) is str:
                argument.encode()  # raises at half a character: OpenCV crashes drawing it
            stack.append(argument)
        elif name in ('BINPUT', 'LONG_BINPUT', 'MEMOIZE'):
            memo[len(memo) if name == 'MEMOIZE' else argument] = stack[-1]
        elif name in ('BINGET', 'LONG_BINGET'):
            stack.append(memo[argument])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == 'MARK':
            marked.append(stack)
            stack = []
        elif name == 'TUPLE':
            stack.append(tuple(items))
        elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
            items = stack[-int(name[-1]) :]
            stack[-len(items) :] = [tuple(items)]
        elif name == 'EMPTY_LIST':
            stack.append([])
        elif name == 'EMPTY_DICT':
            stack.append({})
        elif name in ('APPEND', 'APPENDS'):
            items = items if name == 'APPENDS' else [stack.pop()]
            if type(stack[-1]) is not list:
                raise CheckpointError('its pickle is broken: it appends to what is no list')
            stack[-1].extend(items)
        elif name in ('SETITEM', 'SETITEMS'):
            if name == 'SETITEM':
                items = [stack.pop(-2), stack.pop()]
            target = stack[-1].items if type(stack[-1]) is _Call else stack[-1]
            if type(target) is not dict:
                raise CheckpointError('its pickle is broken: it sets items of what is no dict')
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value
        elif name in ('GLOBAL', 'STACK_GLOBAL'):
            parts = argument.split(' ', 1) if argument else [stack.pop(-2), stack.pop()]
            stack.append(_check_name('.'.join(parts)))
        elif name in ('REDUCE', 'NEWOBJ'):
            args, function = stack.pop(), stack.pop()
            if type(function) is not _Name or type(args) is not tuple:
                raise CheckpointError('its pickle is broken: it calls what is no function')
            stack.append(_Call(function, args))
        elif name == 'BUILD':
            state = stack.pop()
            if type(stack[-1]) is not _Call or stack[-1].state is not None:
                raise CheckpointError('it puts attributes on what has none')
            stack[-1].state = state
        elif name == 'BINPERSID':
            key, dtype = _storage_type(stack[-1])
            if storages is not None:
                storages[key] = dtype
            stack.append(_Call('storage', stack.pop()))
        elif name == 'STOP':
            return stack.pop()
        elif name not in ('PROTO', 'FRAME'):
            raise CheckpointError(f'its pickle has the instruction {name}, which is not read')
    raise CheckpointError('its pickle has no end')


def _key(key: Any) -> Any:
    """Check the key of a mapping.

    Hashing deep tuples would take all of the C stack, and long ones are hashed whenever they are
    used. Of large numbers, and floats in tuples, many could be chosen that have one hash, among
    which each search would take as long as they are many.
    """
    atoms, limit = (key, 2**20) if type(key) is tuple else ((key,), 2**60)
    if len(atoms) > _MAX_KEY or not all(type(atom) in _ATOMS for atom in atoms):
        raise CheckpointError('its pickle has a key that is no string or number')
    if any(type(atom) is int and abs(atom) >= limit for atom in atoms):
        raise CheckpointError('its pickle has a key that is too large a number')
    if type(key) is tuple and float in map(type, key):
        raise CheckpointError('its pickle has a key that has floats in a tuple')
    return key


def _check_name(name: str) -> _Name:
    name = name.replace('__builtin__.', 'builtins.', 1)  # Python 2's, as the protocol has it
    if name not in _OBJECTS and name not in _FUNCTIONS and name not in _ARGUMENTS:
        raise CheckpointError(
            f'it refers to {name!r:.100}; only tensors, plain containers and what mmengine saves '
            'in training are read'
        )
    return _Name(name)


def _storage_type(reference: Any) -> tuple[str, torch.dtype]:
    if type(reference) is not tuple or reference[0] != 'storage' or any(reference[5:]):
        raise CheckpointError('its pickle is broken: it refers to what is no storage')
    _, kind, key, _, length = reference[:5]
    if type(kind) is not _Name or type(key) is not str or not _are_sizes((length,)):
        raise CheckpointError('its pickle is broken: it refers to what is no storage')
    if kind not in _STORAGES:
        raise CheckpointError(f'it has a storage of type {kind}, which is not read')
    return key, _STORAGES[kind]


class _Restorer:
    """Make of what :func:`_unpickle` returns what :func:`read_file` does.

    Args:
        storage: Gives the numbers of a storage by its key, type and length.
        budget: Values and characters that may be restored. Where a file repeats its parts by
            reference these are more than it has, and can be without end.
    """

    def __init__(self, storage: Callable[[str, torch.dtype, int], Tensor], budget: int) -> None:
        self._read = storage
        self._budget = budget
        self._claimed = 0  # bytes of all tensors, were each to have its own
        self._made: dict[int, Any] = {}
        self._storages: dict[str, tuple[str, int, Tensor]] = {}

    def __call__(self, value: Any, depth: int = 0) -> Any:
        """Restore a value and what it contains."""
        kind = type(value)
        self._budget -= len(value) if kind in (str, bytes) else 1
        if self._budget < 0 or depth > _MAX_DEPTH:
            raise CheckpointError('it is nested too deeply, or repeats its parts without end')
        if kind in _ATOMS:
            return value
        if kind is list or kind is tuple:
            return kind([self(item, depth + 1) for item in value])
        if kind is dict:
            return {key: self(item, depth + 1) for key, item in value.items()}
        if kind is _Name:
            return _DTYPES.get(value, str(value))
        if id(value) not in self._made:
            parts = (self(part, depth + 1) for part in (value.args, value.items, value.state))
            self._made[id(value)] = self._make(value.name, *parts)
        return self._made[id(value)]

    def _make(self, name: str, args: tuple, items: dict, state: Any) -> Any:
        if name in _OBJECTS:
            return _OBJECTS[name](args, items, state)
        if items or state is not None:
            raise CheckpointError(f'it puts attributes on what {name} makes, which has none')
        if name in _FUNCTIONS:
            made = _FUNCTIONS[name](*args)
            if _FUNCTIONS[name] is _tensor:
                self._claimed += made.nbytes
            return made
        if name == 'storage':
            _, kind, key, _, length = args[:5]
            # Each tensor of a storage refers to it anew.
            if key not in self._storages:
                self._storages[key] = kind, length, self._read(key, _STORAGES[kind], length)
            if self._storages[key][:2] != (kind, length):
                raise CheckpointError(f'storage {key!r:.50} is of two types or lengths')
            return self._storages[key][2]
        raise CheckpointError(f'it calls {name}, which is no function')

    def restore(self, tree: Any) -> Any:
        """Restore all that a file holds."""
        restored = self(tree)
        held = sum(storage.nbytes for *_, storage in self._storages.values())
        if self._claimed > max(_CLAIMABLE, 4 * held):
            raise CheckpointError(
                f'its tensors would take {self._claimed:.1e} bytes of memory, and it holds {held} '
                'of them'
            )
        return restored


def _tensor(
    storage: Tensor, offset: int, size: tuple, stride: tuple, grad: Any = False, *options: Any
) -> Tensor:
    """Make a tensor of numbers; without hooks and gradient, which weights have no use for."""
    if any(options) or not _are_sizes((offset, *size, *stride)) or len(size) != len(stride):
        raise CheckpointError('it has a tensor with hooks or with no valid shape')
    _check_shape(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.numel():
        raise CheckpointError(
            f'a tensor of shape {str(size):.100} claims more than its storage holds'
        )
    return storage.as_strided(size, stride, offset)


def _array_type(args: tuple, items: dict, state: Any) -> np.dtype:
    """Make the type of an array; its state says the order of bytes, and no more than that."""
    code = _checked((*args, None)[0], str)
    if code not in _NUMPY:
        raise CheckpointError(f'it has an array of type {code!r:.20}; only numbers are read')
    if items or state is not None and (len(state) != 8 or any(state[2:5])):
        raise CheckpointError('it has an array of a type that is no plain number')
    dtype = np.dtype(code)
    return dtype.newbyteorder('>') if state is not None and state[1] == '>' else dtype


def _array(shape: tuple, is_fortran: bool, dtype: Any, data: Any) -> np.ndarray:
    data = data.encode('latin1') if type(data) is str else data  # Python 2's
    if not isinstance(dtype, np.dtype) or type(data) is not bytes or not _are_sizes(shape):
        raise CheckpointError('it has an array that is not one of numbers')
    _check_shape(shape)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise CheckpointError(
            f'an array of shape {str(shape):.100} claims other than the file holds'
        )
    if not data:
        return np.zeros(shape, dtype)
    # Any byte but 0 and 1 would be undefined behaviour.
    numbers = np.frombuffer(data, 'u1') != 0 if dtype.kind == 'b' else np.frombuffer(data, dtype)
    return numbers.astype(dtype.newbyteorder('=')).reshape(shape, order='F' if is_fortran else 'C')


def _make_array(args: tuple, items: dict, state: Any) -> np.ndarray:
    if items or type(state) is not tuple or len(state) != 5:
        raise CheckpointError('it has an array that is not one of numbers')
    _, shape, dtype, is_fortran, data = state
    return _array(shape, is_fortran, dtype, data)


def _scalar(dtype: Any, data: Any) -> int | float | bool:
    return _array((), False, dtype, data).item()


def _history(args: tuple, items: dict, state: Any) -> Any:
    from mmengine.logging import HistoryBuffer

    logs, counts = state['_log_history'], state['_count_history']
    length = state.get('max_length', state.get('_max_length', 10**6))
    if not (isinstance(logs, np.ndarray) and isinstance(counts, np.ndarray) and logs.ndim == 1):
        raise CheckpointError('it has a HistoryBuffer that is not one of numbers')
    if args or items or logs.shape != counts.shape or not _are_sizes((length,)):
        raise CheckpointError('it has a HistoryBuffer of contradictory lengths')
    return HistoryBuffer(logs, counts, length)


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise CheckpointError(f'it has a {type(value).__name__} where a {kind.__name__} belongs')
    return value


def _ordered_dict(args: tuple, items: dict, state: Any) -> OrderedDict:
    made = OrderedDict((_key(key), value) for key, value in _checked((*args, [])[0], list))
    made.update(items)
    if state is not None:
        if type(state) is not dict or state.keys() != {'_metadata'}:
            raise CheckpointError('it puts attributes on an OrderedDict, which has none')
        made._metadata = _versions(state['_metadata'])  # type: ignore[attr-defined]
    return made


def _versions(metadata: Any) -> Any:
    """Check what PyTorch keeps of a state dict's modules, by which they load it."""
    parts = metadata.values() if isinstance(metadata, dict) else [metadata]
    for part in () if metadata is None else parts:
        if not isinstance(part, dict) or type(part.get('version', 0)) not in (int, type(None)):
            raise CheckpointError("its state dict's _metadata is not one of versions")
    return metadata


def _options(args: tuple, items: dict, state: Any) -> dict[str, Any]:
    """Make a plain dict of what training scripts keep their options in."""
    content = {}
    for part in (*args, items, state or {}):
        content.update(_checked(part, dict))
    return content


def _method(owner: str, name: str) -> Any:
    """Stand in for getattr, by which mmengine's objects refer to functions of their class."""
    full = f'{_checked(owner, str)}.{_checked(name, str)}'
    if owner == _HISTORY and name in ('current', 'max', 'mean', 'min'):
        return full  # it knows them itself
    if owner == _ONE_CYCLE and name in ('_annealing_cos', '_annealing_linear'):
        from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

        return getattr(OneCycleParamScheduler, name)
    raise CheckpointError(f'it asks for {full!r:.150}')


_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
_ONE_CYCLE = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'
#: Functions of arguments that are restored already.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': lambda data, *options: data,
    'torch.Size': lambda size: _checked(size, tuple),
    'torch.device': lambda *parts: ':'.join(str(_key(part)) for part in parts),
    '_codecs.encode': lambda text, encoding: _checked(text, str).encode('latin1'),
    'builtins.bytes': lambda: b'',
    'builtins.getattr': _method,
    'builtins.set': lambda items: {_key(item) for item in _checked(items, list)},
    'builtins.slice': lambda *ends: slice(*map(_key, ends)),
    'collections.Counter': lambda counts: Counter(_checked(counts, dict)),
}
#: Functions of arguments, items and state.
_OBJECTS: dict[str, Callable[[tuple, dict, Any], Any]] = {
    'collections.OrderedDict': _ordered_dict,
    'argparse.Namespace': _options,
    'mmengine.config.config.ConfigDict': _options,
    'yacs.config.CfgNode': lambda args, items, state: _options(args, items, None),
    'numpy.dtype': _array_type,
    _HISTORY: _history,
}
# NumPy 1 and 2 call their module by different names, and either reads what both wrote.
for _core in ('core', '_core'):
    _FUNCTIONS[f'numpy.{_core}.multiarray.scalar'] = _scalar
    _OBJECTS[f'numpy.{_core}.multiarray._reconstruct'] = _make_array
#: What is an argument only.
_ARGUMENTS = {'numpy.ndarray', _ONE_CYCLE, *_STORAGES, *_DTYPES}
