"""Checkpoints are read without running or building what they ask for, and what is wrong is said."""

import argparse
import hashlib
import io
import json
import os
import pickle
import re
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
import types
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, PARAM_SCHEDULERS
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as runner_checkpoint
from PIL import Image
from torch import nn

import mmcontnet.checkpoint
from mmcontnet.backbones import ConTNet
from mmcontnet.builders import build_model
from mmcontnet.checkpoint import (
    load_checkpoint,
    load_weights,
    read_checkpoint,
    read_weights,
    safe_loading,
)
from mmcontnet.engine import check_model, load_config
from mmcontnet.errors import CheckpointError, WeightMismatchError
from mmcontnet.weights import convert_checkpoint
from tests import families
from tests.engine.runs import HUB
from tests.inprocess import run_tool
from tests.integration.cli import ROOT
from tests.integration.configs import write_detector
from tests.parity import record

State = dict[Any, Any]


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Give a test its own folder, and 2 GiB beyond what the process has."""
    monkeypatch.chdir(tmp_path)
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**31, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Mine(torch.Tensor):
    """A tensor of another type."""


def saved(content: Any, legacy: bool = False) -> bytes:
    """Return what ``torch.save`` writes."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def write(content: Any, path: str = 'bad.pth', legacy: bool = False) -> str:
    Path(path).write_bytes(saved(content, legacy))
    return path


def rewritten(
    content: bytes, edit: Callable[[bytes], bytes] = bytes, compression: int = 0
) -> bytes:
    """Change the pickle of an archive, and how its members are compressed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', compression) as archive:
        for name, value in members.items():
            archive.writestr(name, edit(value) if name.endswith('data.pkl') else value)
    return stream.getvalue()


# What files may not do.


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


def tensor(offset: int, size: Any, stride: Any, hooks: Any = None, state: Any = None) -> Call:
    args = (torch.ones(2)._typed_storage(), offset, size, stride, False, hooks or OrderedDict())
    return Call(torch._utils._rebuild_tensor_v2, *args, state=state)


def everywhere(content: Any) -> list[bytes]:
    """Save in both formats, alone and beside weights."""
    places = (content, {'state_dict': {'a': torch.ones(2)}, 'meta': [content]})
    return [saved(place, legacy) for place in places for legacy in (False, True)]


def metadata(value: Any) -> OrderedDict:
    state = OrderedDict(a=torch.ones(1))
    state._metadata = value  # type: ignore[attr-defined]
    return state


NO_END = b'N'


def program(instructions: bytes) -> list[bytes]:
    end = b'' if instructions == NO_END else b'.'
    return [rewritten(saved({}), lambda _: b'\x80\x02' + instructions + end)]


def claimed(numbers: int) -> bytes:
    """Save 77 numbers that are said to be others."""
    there, said = (pickle.dumps(n, protocol=2)[2:-1] for n in (77, numbers))
    return rewritten(saved(torch.zeros(77)), lambda program: program.replace(there, said))


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def torchscript() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.ReLU()), stream)
    return stream.getvalue()


def safetensors(**entry: Any) -> bytes:
    entry = dict(dtype='F32', shape=[2, 1], data_offsets=[0, 8]) | entry
    header = json.dumps({'__metadata__': {'format': 'pt'}, 'w': entry}).encode()
    return len(header).to_bytes(8, 'little') + header + np.array([1, 2], 'f4').tobytes()


HOSTILE = Call(os.mkdir, 'harmed')
INTERFACE = OrderedDict()
INTERFACE.__array_interface__ = dict(shape=(9,), typestr='<f8', data=(4096, False), version=3)
SUBARRAY = (np.dtype('O'), (1,))
MANY = [torch.ones(1).expand(2**26 + i) for i in range(32)]
ATTACKS: dict[str, tuple[Any, str]] = {
    'function': (HOSTILE, r"refers to 'posix\.mkdir'; only tensors, plain containers and"),
    'method': (Call(getattr, HistoryBuffer, '__init__'), "asks for 'mmengine.*Buffer.__init__'"),
    'pointers': (Call(np.ndarray, (1,), np.dtype('O'), b'\x41' * 8), "array of type 'O8'"),
    'object array': (array(dtype('O8'), (1,)), "array of type 'O8'"),
    'array in an array': (array(dtype('V8', '<', SUBARRAY), (1,)), "array of type '[OV]8'"),
    'numbers in an array': (array(dtype('f8', '<', ('f8', (9,))), (1,)), 'no plain number'),
    'array made anew': (Call(np.ndarray, (1,), np.dtype('f8'), b'\x41' * 8), 'calls numpy.ndarray'),
    'array too long': (array(np.dtype('f8'), (2**20,)), 'claims other than the file holds'),
    'array of nothing': (array(np.dtype('f8'), (2**40,), b''), 'claims other than the file holds'),
    'address': (Call(HistoryBuffer, INTERFACE, INTERFACE), 'attributes on an OrderedDict'),
    'attributes': (tensor(0, (2,), (1,), state=dict(x=1)), 'attributes on what torch'),
    'hooks': (tensor(0, (2,), (1,), OrderedDict(a=1)), 'with hooks'),
    'beyond its storage': (tensor(1, (2,), (1,)), r'shape \(2,\) claims more than its storage'),
    'before its storage': (tensor(-1, (2,), (1,)), 'no valid shape'),
    'overflow': (tensor(0, (2**33, 2**31), (0, 0)), 'larger than any can be'),
    'dimensions': (tensor(0, (1,) * 5000, (1,) * 5000), r'shape [(1, ]{100} that is larger than'),
    'dimensions of an array': (array(np.dtype('f8'), (2**40,) * 5000), 'larger than any can be'),
    'version': (metadata(dict(a=dict(version='1'))), '_metadata is not one of versions'),
    'versions': (metadata(dict(a=3)), '_metadata is not one of versions'),
    'no versions': (metadata(3), '_metadata is not one of versions'),
    'expanded': (torch.ones(1).expand(2**31), 'would take 8.6e.09 bytes of memory'),
    'expanded, and many': (MANY, 'would take 8.6e.09 bytes of memory'),
    'allocation': (Call(torch.FloatTensor, 2**32), "refers to 'torch.FloatTensor'"),
    'bytes without end': (Call(bytearray, 2**34), "refers to 'builtins.bytearray'"),
    'sparse': (torch.eye(2).to_sparse(), '_rebuild_sparse_tensor.; only'),
    'without values': (torch.empty(2, device='meta'), '_rebuild_meta_tensor_no_storage.; only'),
    'of a subclass': (torch.ones(1).as_subclass(Mine), 'refers to .*_rebuild_from_type_v2'),
}
TEXT = b'X\0\0\1\0' + b'a' * 65536
ENCODE = b'c_codecs\nencode\nh\0X\6\0\0\0latin1\x86R'
COUNTER = b'ccollections\nCounter\n'
COLLIDING = b''.join(pickle.dumps(n * (2**61 - 1), protocol=2)[2:-1] + b'N' for n in range(10**5))
#: Pickles that would take all memory or time.
PROGRAMS = {
    'nested lists': (b']' * 10**5 + b'a' * (10**5 - 1), 'nested too deeply'),
    'nested calls': (COUNTER * 10**5 + b')R' + b'\x85R' * (10**5 - 1), 'nested too deeply'),
    'hash of nested tuples': (b'})' + b'\x85' * 10**5 + b'Ns', 'key that is no string or number'),
    'a long key many times': (b'(' + b'K\0' * 10**5 + b'tq\0}(' + b'h\0N' * 10**5 + b'u', 'a key'),
    'keys of one hash': (b'}(' + COLLIDING + b'u', 'key that is too large a number'),
    'pairs as keys': (b'}J\0\0\0\x40K\0\x86Ns', 'key that is too large a number'),
    'floats as keys': (b'}G' + b'\0' * 8 + b'\x85Ns', 'key that has floats in a tuple'),
    'itself': (b']q\0h\0a', 'nested too deeply, or repeats its parts'),
    'doubled sixty times': (b')' + b'q\0h\0\x86' * 60, 'repeats its parts without end'),
    'long text repeated': (TEXT + b'q\0](' + ENCODE * 999 + b'e', 'repeats its parts without end'),
    'text that is not there': (b'X\xff\xff\xff\x7fabc', 'broken .*expected 2147483647 bytes'),
    'half a character': (b'X\3\0\0\0\xed\xa0\x80', 'broken .*surrogates not allowed'),
    'no end': (NO_END, 'broken'),
}
#: What is no checkpoint or not all of one, and sizes that are merely claimed.
FILES = {
    'empty': (b'', 'it is empty'),
    'text': (b'<!DOCTYPE html>', r"neither a file of torch\.save nor .* begins with b'<!DOCTYPE"),
    'cut': (saved({'w': torch.zeros(99)})[:-100], 'it is cut short'),
    'damaged': (damaged(saved({'w': torch.zeros(10**4)})), 'it is damaged at .*data/0'),
    'TorchScript': (torchscript(), 'it is a TorchScript program'),
    'pickle': (pickle.dumps({'w': 1}, protocol=2), r'a pickle, but not one of torch\.save'),
    'numbers': (claimed(2**31 - 1), "storage '0' claims more than the file holds"),
    'bomb': (rewritten(saved(torch.zeros(10**6)), compression=8), r'claims 4\.0e\+06 bytes, and'),
    'bzip2': (
        rewritten(saved(torch.zeros(9)), compression=12),
        'packed in a way that PyTorch',
    ),
    'safetensors: size': (safetensors(shape=[2**40, 1]), "tensor 'w' "),
    'safetensors: sign': (safetensors(shape=[-2, -1]), "tensor 'w' "),
    'safetensors: shape': (safetensors(shape=['a'] * 5000), "tensor 'w' "),
    'safetensors: end': (safetensors(data_offsets=[0, 2**40]), "tensor 'w' "),
    'safetensors: begin': (safetensors(data_offsets=[-8, 0]), "tensor 'w' "),
    'safetensors: type': (safetensors(dtype='F8_E5M2FNUZ'), "tensor 'w' "),
    'safetensors: dimensions': (safetensors(shape=[1] * 65), 'larger than any can be'),
    'safetensors: overflow': (safetensors(shape=[0, 2**40, 2**40]), 'larger than any can be'),
}
HOSTILE_FILES = [
    *(pytest.param(everywhere, *attack, id=name) for name, attack in ATTACKS.items()),
    *(pytest.param(program, *attack, id=name) for name, attack in PROGRAMS.items()),
    *(pytest.param(lambda data: [data], *attack, id=name) for name, attack in FILES.items()),
]


@pytest.mark.parametrize(('files', 'content', 'message'), HOSTILE_FILES)
def test_hostile_files_are_refused_in_every_format(
    files: Callable[[Any], list[bytes]], content: Any, message: str
) -> None:
    for data in files(content):
        Path('bad.pth').write_bytes(data)
        with pytest.raises(
            CheckpointError, match=f"^checkpoint 'bad.pth' cannot be read: .*{message}"
        ):
            read_checkpoint('bad.pth')
        assert os.listdir() == ['bad.pth']


def test_nothing_is_unpacked_beyond_what_it_claims_to_be() -> None:
    content = rewritten(saved(torch.zeros(2**22)), compression=zipfile.ZIP_DEFLATED)
    lies = content.replace(struct.pack('<I', 2**24), struct.pack('<I', 9))
    Path('bad.pth').write_bytes(lies)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match='it is damaged at'):
            read_checkpoint('bad.pth')
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_random_files_give_plain_values_or_one_line() -> None:
    fuzz = [sys.executable, '-X', 'faulthandler', '-m', 'tests.checkpoint_fuzz', '--count', '600']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(fuzz, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r'^\d{3,} read$', done.stdout, re.MULTILINE)


# What they may hold.


@pytest.mark.parametrize('legacy', [False, True])
def test_what_a_training_saves_is_read(legacy: bool) -> None:
    weights = OrderedDict(w=torch.randn(3, 4), b=torch.tensor([True, False]), n=torch.tensor(3))
    weights.update(
        tied=weights['w'].T,
        **{f'expert{i}': part for i, part in enumerate(torch.zeros(2**10, 2**10))},
        none=torch.empty(0, 3),
        half=nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        complex=torch.ones(2, dtype=torch.complex64),
    )
    weights._metadata = OrderedDict({'': dict(version=2)})  # type: ignore[attr-defined]
    palette = np.arange(6, dtype=np.uint8).reshape(2, 3)
    meta: dict = {(1, 'a'): 2}
    meta.update(epoch=1, seed=np.int64(3), classes=('a', 'b'), flags={1, 2}, part=slice(1, 2))
    numbers = [palette, np.asfortranarray(palette), np.array([0.5], '>f4'), np.array([True])]
    log = HistoryBuffer([1.0, 3.0], [1, 1])
    content = dict(
        state_dict=weights,
        message_hub=dict(
            log_scalars={'loss': log, 'lr': HistoryBuffer()},
            runtime_info=dict(best=np.float64(0.5), text=b'x'),
        ),
        meta=dict(meta, metainfo=ConfigDict(info=dict(source='mine'))),
        args=argparse.Namespace(lr=0.1, device=torch.device('cuda:0'), milestones=Counter([3, 3])),
        numbers=numbers,
    )
    path = write(content, 'epoch_1.pth', legacy)
    with safe_loading():
        through_mmengine = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    for found in (read_checkpoint(path), read_checkpoint(path, mmap=True), through_mmengine):
        for name, weight in weights.items():
            assert type(found['state_dict'][name]) is torch.Tensor
            torch.testing.assert_close(found['state_dict'][name], weight.data, rtol=0, atol=0)
        assert found['state_dict']['tied'].data_ptr() == found['state_dict']['w'].data_ptr()
        assert found['state_dict']._metadata == weights._metadata
        hub = found['message_hub']
        assert [part.tolist() for part in hub['log_scalars']['loss'].data] == [[1, 3], [1, 1]]
        hub['log_scalars']['lr'].update(0.5)
        assert hub['log_scalars']['lr'].mean() == 0.5
        assert hub['runtime_info'] == dict(best=0.5, text=b'x')
        assert found['meta'] == dict(meta, metainfo=dict(info=dict(source='mine')))
        assert found['args'] == dict(lr=0.1, device='cuda:0', milestones={3: 2})
        for made, expected in zip(found['numbers'], numbers, strict=True):
            np.testing.assert_array_equal(made, expected, strict=made.dtype.itemsize == 1)


def test_the_state_of_schedulers_is_read() -> None:
    for config in (
        dict(type='CosineRestartLR', periods=[2], restart_weights=[1], eta_min=0),
        dict(type='OneCycleLR', eta_max=0.1, total_steps=10),
        dict(type='OneCycleLR', eta_max=0.1, total_steps=10, anneal_strategy='linear'),
        dict(type='ReduceOnPlateauLR', monitor='loss'),
    ):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
        state = PARAM_SCHEDULERS.build(dict(config, optimizer=optimizer)).state_dict()
        path = write(dict(param_schedulers=[state]))
        assert read_checkpoint(path)['param_schedulers'] == [state], config


def test_what_numpy_1_and_other_protocols_wrote_is_read() -> None:
    old = rewritten(
        saved({'x': np.float64(0.5)}), lambda p: p.replace(b'numpy._core.', b'numpy.core.')
    )
    Path('bad.pth').write_bytes(old)
    assert read_checkpoint('bad.pth') == {'x': 0.5}
    for length in range(1, 20):  # zipfile does not align members
        content = saved({'x' * length: torch.arange(9).to(torch.complex128)})
        Path('bad.pth').write_bytes(rewritten(content))
        (read,) = read_checkpoint('bad.pth', mmap=True).values()
        assert read.tolist() == [*range(9)] and read.data_ptr() % 16 == 0
    for protocol in (2, 3, 4, 5):
        torch.save({'w': torch.ones(2), 'text': 'a' * 300}, 'new.pth', pickle_protocol=protocol)
        assert read_checkpoint('new.pth')['w'].tolist() == [1, 1]


def test_options_that_swins_training_keeps_beside_the_weights_are_read_without_yacs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As yacs has it: a dict that keeps its state beside.
    node = type('CfgNode', (dict,), {'__module__': 'yacs.config'})
    module = types.ModuleType('yacs.config')
    module.CfgNode = node  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    config = node(MODEL=node(TYPE='swin', DEPTHS=[2, None]))
    config.__dict__.update(__immutable__=True, __deprecated_keys__=set())
    shapes = record('cont-s')['state_dict']
    state = {k: torch.zeros(()).expand(s) for k, s in shapes.items()}
    write({'model': state, 'config': config}, 'author.pth')
    monkeypatch.setitem(sys.modules, 'yacs.config', None)
    assert read_checkpoint('author.pth')['config']['MODEL'] == {'TYPE': 'swin', 'DEPTHS': [2, None]}
    assert convert_checkpoint('author.pth', 'ours.pth').entry == 'model'


# Through mmengine, and from the web.


def test_mmengine_reads_as_strictly_while_it_is_asked_to_and_as_it_did_afterwards() -> None:
    write({'state_dict': {}, 'meta': HOSTILE})
    before = dict(CheckpointLoader._schemes), runner_checkpoint.load_from_http
    with pytest.raises(CheckpointError, match=r'\.mkdir'), safe_loading(), safe_loading():
        runner_checkpoint.load_checkpoint(nn.Linear(1, 1), 'bad.pth')
    assert (dict(CheckpointLoader._schemes), runner_checkpoint.load_from_http) == before
    assert not os.path.exists('harmed')


@pytest.mark.parametrize('scheme', ['s3', 'petrel', 'cluster:s3', 'pavi'])
def test_stores_whose_files_mmengine_would_open_by_itself_are_refused(scheme: str) -> None:
    with pytest.raises(
        CheckpointError, match=f"'{scheme}://a/b.pth' cannot be .* download it first"
    ):
        read_weights(f'{scheme}://a/b.pth')


class Server(BaseHTTPRequestHandler):
    """Serves a file by its path, or fewer bytes than it says, or nothing."""

    def do_GET(self) -> None:
        path = Path(urlparse(self.path).path.lstrip('/'))
        if not path.is_file() and path.stem != 'silent':
            self.send_error(404)
        elif path.stem == 'silent':
            time.sleep(1)
        else:
            self.send_response(200)
            self.send_header('Content-Length', str(path.stat().st_size + 9 * ('cut' in self.path)))
            self.end_headers()
            self.wfile.write(path.read_bytes())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the test's folder, and let torch.hub keep its files in one of it."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: 'hub')
    with ThreadingHTTPServer(('127.0.0.1', 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_files_from_the_web_are_fetched_whole_and_once_and_read_as_strictly(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(mmcontnet.checkpoint, '_TIMEOUT', 0.3)
    monkeypatch.setattr(mmcontnet.checkpoint, '_INTERVAL', 0)
    for folder in ('a', 'b'):
        Path(folder).mkdir()
        write({'name': torch.full((2,), ord(folder))}, f'{folder}/good.pth')
    write({'w': HOSTILE})
    Path('login.pth').write_text('<html>')
    with safe_loading():
        for path, message in {
            'bad.pth': 'cannot be fetched: it refers to',
            'login.pth': 'cannot be fetched: it is neither .* it begins with b.<html>',
            'none.pth': 'cannot be fetched: .*404',
            'a/good.pth?cut': r'cannot be fetched: \d+ of \d+ bytes came',
            'silent.pth': 'cannot be fetched: .*timed out',
        }.items():
            with pytest.raises(CheckpointError, match=message):
                CheckpointLoader.load_checkpoint(f'{url}/{path}')
        assert os.listdir('hub/checkpoints') == []
        for _ in range(2):
            for folder in ('a', 'b'):
                found = read_weights(f'{url}/{folder}/good.pth?download=1')
                assert found['name'].tolist() == [ord(folder)] * 2
                Path(f'{folder}/good.pth').unlink(missing_ok=True)
    assert re.search(r'^good.pth: 0\.\d of 0\.\d MiB$', capsys.readouterr().err, re.MULTILINE)
    assert not os.path.exists('harmed')


def test_what_torch_hub_fetched_is_taken_by_its_hash_and_parts_left_behind_are_deleted(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(mmcontnet.checkpoint, 'print_log', lambda text, *_: said.append(text))
    cache = Path('hub/checkpoints')
    cache.mkdir(parents=True)
    content = saved({'w': torch.ones(1)})
    digest = hashlib.sha256(content).hexdigest()[:8]
    (cache / f'net-{digest}.pth').write_bytes(content)
    assert read_weights(f'http://127.0.0.1:9/net-{digest}.pth')['w'].item() == 1
    for name in ('net-0123abcd.pth', 'net-20200102.pth'):
        write({'w': torch.zeros(1)}, str(cache / name))  # of another server, perhaps
        Path(name).write_bytes(content)
        file = cache / f'{hashlib.sha256(f"{url}/{name}".encode()).hexdigest()[:12]}-{name}'
        old, new = (Path(f'{file}.{pid}.partial') for pid in (1, 2))
        for part in (old, new):
            part.touch()
        os.utime(old, (0, 0))
        assert read_weights(f'{url}/{name}')['w'].item() == 1
        assert new.exists() and not old.exists()
    (warning,) = (line for line in said if 'SHA-256' in line)
    assert '0123abcd' in warning


# Files and weights that are no good, and what is said of them.


def checkpoint(state: State) -> bytes:
    return saved(dict(state_dict=state, meta=dict(epoch=1, iter=2), message_hub=HUB, optimizer={}))


DIVERGED = r'holds NaN or infinity in 1 tensors \(\S+\), as a training that diverged'
NO_MAPPING = 'no state dict.*: it is no mapping|no state dict: it holds a '
#: What is wrong with a file, and what both the converter and the other tools say of it.
FAULTS = {
    'missing': 'not found',
    'folder': 'is a folder, not a file',
    'tensor': f'{NO_MAPPING}Tensor',
    'nothing': r'unknown checkpoint: it holds no keys|of ConTNet are missing',
    'EMA alone': 'ema_state_dict is of type|does not fit: 203 of 203',
    'larger': 'of another shape|of unknown arch: .* width 1000000',
    'not a number': DIVERGED,
    'no tensor': 'is of type list; weights are tensors|missing or of another shape',
    'hostile': r"refers to 'posix\.mkdir'",
    'numbered': 'a key of type int; names are strings',
    'two lines': r"the name 'a\\nb' cannot be printed",
}


def save(fault: str, good: State, path: str) -> None:
    """Write weights that are good but for one thing."""
    name = next(name for name in good if 'running' not in name)
    weight = good[name]
    contents = {
        'tensor': weight,
        'nothing': {},
        'EMA alone': dict(ema_state_dict=good, meta={}),
    }
    changes: dict[str, State] = {
        'larger': {name: torch.zeros(10**6)},
        'not a number': {name: weight * float('nan')},
        'no tensor': {name: [1.0, 2.0]},
        'hostile': {name: HOSTILE},
        'numbered': {3: weight},
        'two lines': {'a\nb': weight},
    }
    if fault == 'folder':
        Path(path).mkdir()
    elif fault in contents:
        write(contents[fault], path)
    elif fault != 'missing':
        Path(path).write_bytes(checkpoint({**good, **changes[fault]}))


@pytest.fixture(scope='module')
def backbone() -> ConTNet:
    return ConTNet(families.CONTNET)


@pytest.mark.parametrize('fault', FAULTS)
def test_loading_and_converting_name_the_file_and_the_fault(
    fault: str, backbone: ConTNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(fault, backbone.state_dict(), 'bad.pth')
    with pytest.raises(
        CheckpointError, match=rf"^checkpoint 'bad\.pth' .*({FAULTS[fault]})"
    ) as error:
        load_checkpoint(backbone, 'bad.pth')
    assert '\n' not in str(error.value)

    shapes = record('cont-s')['state_dict']
    save(fault, {k: torch.zeros(()).expand(s) for k, s in shapes.items()}, 'author.pth')
    line = str(run_tool(monkeypatch, 'convert_checkpoint.py', 'author.pth', 'out.pth'))
    assert re.match(rf"convert_checkpoint.py: error: .*'author\.pth' .*({FAULTS[fault]})", line)
    assert '\n' not in line and not os.path.exists('out.pth') and not os.path.exists('harmed')


def test_a_good_file_for_which_memory_does_not_suffice_is_not_called_broken() -> None:
    size = 2**28  # bytes, which are mapped and then copied: more than this process may have kept
    write({'w': torch.zeros(size // 4)})
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = pages * resource.getpagesize() + size + size // 2
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with pytest.raises(CheckpointError, match="'bad.pth' cannot be read: not enough memory"):
        read_checkpoint('bad.pth')


@pytest.mark.skipif(os.geteuid() == 0, reason='root reads everything')
def test_a_file_that_must_not_be_read_is_named() -> None:
    Path('bad.pth').touch(mode=0)
    with pytest.raises(CheckpointError, match=r"'bad\.pth' cannot be read: Permission denied"):
        read_weights('bad.pth')


# Weights that fit or not.


@pytest.mark.parametrize(
    'wrap',
    [
        lambda model: torch.compile(nn.DataParallel(model)),
        lambda model: nn.DataParallel(torch.compile(model)),
        lambda model: nn.Sequential(OrderedDict(a=torch.compile(model[0]), b=model[1])),
    ],
)
def test_names_of_wrapped_models_are_read_without_the_wrappers(
    wrap: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(OrderedDict(a=nn.Linear(1, 1), b=nn.Linear(1, 1)))
    state = wrap(model).state_dict()
    said: list[str] = []
    monkeypatch.setattr(mmcontnet.checkpoint, 'print_log', lambda text, logger: said.append(text))
    # As mmengine and other packages save weights, and bare, with something beside them.
    for content in (
        {'state_dict': state},
        {'model': state, 'optimizer': {}},
        {**state, 'epoch': 3},
    ):
        path = write(content, 'wrapped.pth')
        assert read_weights(path).keys() == model.state_dict().keys()
        assert said.pop().startswith(f'checkpoint {path!r} is of a wrapped model: ') and not said
        loaded = nn.Sequential(OrderedDict(a=nn.Linear(1, 1), b=nn.Linear(1, 1)))
        with safe_loading():
            runner_checkpoint.load_checkpoint(loaded, path, revise_keys=[('^$', '')])
        for name, weight in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight)


def test_a_module_called_module_keeps_its_name() -> None:
    write({'module.a': torch.ones(1), 'b': torch.ones(1)}, 'own.pth')
    assert read_weights('own.pth').keys() == {'module.a', 'b'}


class Renaming(nn.Module):
    """Takes weights by an old name, as mmdet's FCOS does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kept, self.backbone, self.new = (nn.Linear(width, width) for _ in range(3))
        self._register_load_state_dict_pre_hook(self.rename)

    @staticmethod
    def rename(state: dict, prefix: str, *args: object) -> None:
        for name in [name for name in state if name.startswith('old.')]:
            state[name.replace('old.', 'new.')] = state.pop(name)


def test_what_does_not_fit_is_found_where_a_hook_renames_it() -> None:
    weights = {
        **{f'{name}.weight': torch.full((3, 3), 2.0) for name in ('kept', 'backbone')},
        **{f'{name}.bias': torch.full((3,), 2.0) for name in ('kept', 'backbone')},
        'old.weight': torch.ones(2, 2),
        'old.bias': torch.full((3,), torch.nan),
    }
    with pytest.raises(WeightMismatchError, match=r'1 of 6 tensors of Renaming .* \(new\.weight\)'):
        load_weights(Renaming(3), weights, 'file')
    with pytest.raises(WeightMismatchError, match=r'infinity in 1 tensors \(new\.bias\)'):
        load_weights(Renaming(3), weights, 'file', 'backbone')
    module = Renaming(3)
    weights['old.bias'] = torch.full((3,), 2.0)
    assert load_weights(module, weights, 'file', 'half') == ['new.weight']
    assert all((p == 2).all() for name, p in module.named_parameters() if name != 'new.weight')
    assert not module._load_state_dict_post_hooks
    del weights['backbone.bias']
    with pytest.raises(WeightMismatchError, match=r'1 of 6 tensors .* \(backbone\.bias\)'):
        load_weights(Renaming(3), weights, 'file', 'backbone')
    with pytest.raises(WeightMismatchError, match=r'4 of 6 tensors'):
        load_weights(Renaming(3), {k: v for k, v in weights.items() if 'kept' in k}, 'file', 'half')


def test_an_error_of_a_hook_is_no_misfit() -> None:
    def fail(*args: object) -> None:
        raise RuntimeError('size mismatch for a reason of its own')

    module = nn.Linear(1, 1)
    module._register_load_state_dict_pre_hook(fail)
    with pytest.raises(RuntimeError, match='a reason of its own'):
        load_weights(module, nn.Linear(1, 1).state_dict(), 'file')


def test_infinity_in_a_buffer_that_is_not_learnt_is_its_meaning() -> None:
    module = nn.Linear(1, 1)
    module.register_buffer('mask', torch.zeros(2))
    state = {**module.state_dict(), 'mask': torch.tensor([0, -torch.inf])}
    assert load_weights(module, state, 'it') == []
    assert module.mask.isinf().any()


# Through the command lines.


@pytest.fixture(scope='module')
def whole_model(tmp_path_factory: pytest.TempPathFactory) -> State:
    """Return the state of the detector that ``write_detector`` describes."""
    config = write_detector(tmp_path_factory.mktemp('config'))
    return build_model(load_config(str(config))).state_dict()


TOOLS = {
    'test.py': ('CONFIG', 'bad.pth'),
    'train.py --resume': ('CONFIG', '--resume', 'bad.pth'),
    'train.py load_from': ('CONFIG', '--cfg-options', 'load_from=bad.pth'),
    'train.py init_cfg': ('CONFIG',),
    'demo.py': ('image.png', 'CONFIG', 'bad.pth', '--out', 'out.png'),
    'receptive_field.py': ('CONFIG=bad.pth', '--images', 'image.png', '--out', 'out.png'),
    'export_onnx.py': ('CONFIG', 'bad.pth', '--shape', '64', '64', '--out', 'out.onnx'),
}


@pytest.mark.parametrize('fault', ['hostile', 'not a number'])
@pytest.mark.parametrize('tool', TOOLS)
def test_every_tool_says_it_in_a_line_and_writes_and_runs_nothing(
    tool: str, fault: str, whole_model: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_detector(tmp_path)
    if tool.endswith('init_cfg'):
        init_cfg = "dict(type='Pretrained', checkpoint='bad.pth', prefix='backbone.')"
        config.write_text(config.read_text().replace('init_cfg=None', f'init_cfg={init_cfg}'))
    Image.new('RGB', (32, 32)).save('image.png')
    save(fault, whole_model, 'bad.pth')
    arguments = [argument.replace('CONFIG', str(config)) for argument in TOOLS[tool]]
    line = run_tool(monkeypatch, tool.partition(' ')[0], *arguments)
    assert isinstance(line, str) and '\n' not in line
    assert line.startswith(tool.partition(' ')[0] + ": error: checkpoint 'bad.pth' ")
    assert sorted(os.listdir()) == ['bad.pth', 'image.png', config.name]


NO_DATA = "data_root 'data/coco/' not found"  # the next check
URL = 'http://127.0.0.1:9/weights.pth'  # where nothing listens
HEAD = 'bbox_head.retina_cls'


@pytest.mark.parametrize(
    ('lacks', 'options', 'message'),
    [
        ('none', 'load_from=bad.pth', NO_DATA),
        (HEAD, 'load_from=bad.pth', NO_DATA),  # and it is told, see below
        ('b', 'load_from=bad.pth', 'does not fit: .*; --allow-missing trains nevertheless'),
        ('b', 'load_from=bad.pth --allow-missing', NO_DATA),
        ('', 'load_from=a.pth,b.pth', r"must be of type str, got \['a\.pth', 'b\.pth'\]"),
        ('', f'load_from={URL}', f"error: checkpoint '{URL}' cannot be fetched: "),
        (
            '',
            f'model.backbone.init_cfg.checkpoint={URL}',
            f"checkpoint '{URL}' cannot be fetched: ",
        ),
        ('none', '--resume bad.pth', r"'bad\.pth': its optimizer is not the optim_wrapper"),
        (HEAD, '--resume bad.pth', r"'bad\.pth' does not fit: 2 of \d+ tensors of RetinaNet .*\)$"),
        # A run that left no checkpoint starts as its config says.
        ('', 'load_from=none.pth --resume', "error: checkpoint 'none.pth' not found"),
    ],
)
def test_training_starts_without_a_head_and_goes_on_with_all_weights_alone(
    lacks: str,
    options: str,
    message: str,
    whole_model: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: 'hub')
    config = write_detector(tmp_path)
    if 'init_cfg' in options:
        config = ROOT / 'configs/retinanet_cont_m_fpn_1x_coco.py'
    state = {key: value for key, value in whole_model.items() if not key.startswith(lacks)}
    Path('bad.pth').write_bytes(checkpoint(state or whole_model))
    arguments = options.split()
    if not options.startswith('-'):
        arguments.insert(0, '--cfg-options')
    line = str(run_tool(monkeypatch, 'train.py', config, *arguments, '--check-only'))
    assert re.search(message, line) and '\n' not in line
    told = "load_from 'bad.pth' has no weights that fit 2 tensors" in capsys.readouterr().err
    assert told is (lacks == HEAD and 'load_from' in options)


def test_backbones_of_others_are_refused_weights_of_which_almost_none_fits() -> None:
    backbone = dict(type='mmdet.ResNet', depth=18, base_channels=4)
    state = MODELS.build(backbone).state_dict()
    init_cfg = dict(type='Pretrained', checkpoint='weights.pth')
    model = dict(type='ImageClassifier', backbone=dict(backbone, init_cfg=init_cfg))
    cfg = Config(dict(default_scope='mmpretrain', model=model))
    names = sorted(state)
    torch.save({name: state[name] for name in names[: len(names) * 2 // 3]}, 'weights.pth')
    check_model(cfg)
    torch.save({name: state[name] for name in names[: len(names) // 3]}, 'weights.pth')
    with pytest.raises(WeightMismatchError, match=r"'weights\.pth' .* does not fit: .* of ResNet"):
        check_model(cfg)
    check_model(cfg, allow_missing=True)


def test_testing_with_weights_that_would_stay_random_must_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = ROOT / 'configs/retinanet_cont_m_fpn_1x_coco.py'
    write({'state_dict': {'backbone.stem.conv.0.weight': torch.zeros(3)}}, 'other.pth')
    for option, message in (
        ('--check-only', "checkpoint 'other.pth' does not fit: .* --allow-missing tests"),
        ('--allow-missing', NO_DATA),
    ):
        line = run_tool(monkeypatch, 'test.py', config, 'other.pth', option)
        assert re.search(message, str(line))
