"""tools/setup_env.py: what is done in which state; commands only write down what they would do."""

import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / 'tools' / 'setup_env.py'
spec = importlib.util.spec_from_file_location('setup_env', SCRIPT)
setup_env = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_env)
STEPS = ['-m venv', 'setup.txt', 'pip wheel', 'mmcv.whl', ' -e ']


class Environment(setup_env.Environment):
    """Keeps in a file which torch "is installed", and for which mmcv was built."""

    in_index: str | None = None  # the torch that the index's wheel of mmcv is for

    def run(self, *command: object, env: dict | None = None, quiet: bool = False) -> None:
        text = ' '.join(map(str, command))
        if quiet:
            if self.in_index is None:
                raise setup_env.SetupError('no wheel')
            Path(str(command[-1])).mkdir()
            Path(str(command[-1]), 'mmcv.whl').write_text(self.in_index)
            return
        self.calls.append(text)
        torch, mmcv = self.installed
        if '-m venv' in text:
            torch = mmcv = ''
        elif 'pip download' in text:
            sources = Path(str(command[-1]), 'mmcv-1', 'mmcv/ops/csrc/pytorch')
            sources.mkdir(parents=True)
            for name in ('nms', 'pybind', 'psamask', 'roi_align'):
                (sources / f'{name}.cpp').touch()
            archive = sources.parents[3].with_name('mmcv-1')
            shutil.make_archive(str(archive), 'gztar', archive.parent, 'mmcv-1')
            shutil.rmtree(archive)
        elif 'pip wheel' in text:
            (source,) = (part for part in command if str(part).endswith('mmcv-1'))
            sources = source.glob('mmcv/ops/csrc/pytorch/*.cpp')
            self.compiled = {path.name: path.read_text() for path in sources}
            Path(str(command[-1])).mkdir()
            Path(str(command[-1]), 'mmcv.whl').write_text(torch)
        elif text.endswith('.whl'):
            mmcv = Path(str(command[-1])).read_text()
        elif text.endswith('.txt'):
            torch = self.requirements.read_text()
        (self.venv / 'installed').write_text(f'{torch} {mmcv}')

    @property
    def installed(self) -> list[str]:
        path = self.venv / 'installed'
        return path.read_text().split(' ') if path.exists() else ['', '']

    def probe(self, modules: list[str], python: str = '') -> tuple[str, str, str]:
        torch, mmcv = self.installed
        broken = 'mmcv._ext cannot be used' * ('mmcv._ext' in modules and mmcv != torch)
        return broken if torch else 'torch cannot be used', torch, 'cpu'


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose requirements are torch's version."""
    monkeypatch.setattr(setup_env, 'WHEELS', tmp_path / 'wheels')
    monkeypatch.setattr(setup_env, 'NEEDED_GB', 0)
    monkeypatch.setenv('CXX', 'true')  # is in every PATH
    (tmp_path / 'Python.h').touch()
    monkeypatch.setattr(setup_env.sysconfig, 'get_path', lambda name: str(tmp_path))
    (tmp_path / 'repo' / 'requirements').mkdir(parents=True)
    for name, text in dict(setup='2.10.0', mmcv='onedl-mmcv==2.3.6').items():
        (tmp_path / 'repo' / 'requirements' / f'{name}.txt').write_text(text)
    return tmp_path / 'repo'


def steps(root: Path) -> list[str]:
    """Which of `STEPS` a set-up takes."""
    environment = Environment(root, setup_env.MODULES, upstream=False)
    environment.calls = []
    environment.ensure()
    assert environment.probe(environment.modules)[0] == ''
    if hasattr(environment, 'compiled'):  # each source once
        assert environment.compiled == {
            'joined_0.cpp': '#include "nms.inc"\n#include "roi_align.inc"\n',
            'joined_1.cpp': '#include "psamask.inc"\n',
            'pybind.cpp': '',
        }
    return [step for step in STEPS if any(step in call for call in environment.calls)]


KEPT = '../wheels/mmcv-2.3.6-torch2.10.0-cp{}{}-cpu/mmcv.whl'.format(*sys.version_info)
REMADE = [*STEPS[:2], *STEPS[3:]]  # all but compiling
# What is changed after a set-up, and the steps that the next one takes.
CHANGES = {
    'nothing': ({}, []),
    'requirements': ({'requirements/setup.txt': '2.12.0'}, STEPS),
    'another torch by hand': ({'.venv/installed': '2.11.0 2.11.0'}, REMADE),
    'broken mmcv': ({'.venv/installed': '2.10.0 '}, REMADE),
    'broken mmcv and kept wheel': ({'.venv/installed': '2.10.0 ', KEPT: '2.9.0'}, STEPS),
    'moved or interrupted': ({'.venv/mmcontnet.stamp': ''}, REMADE),
}


@pytest.mark.parametrize(('files', 'expected'), CHANGES.values(), ids=CHANGES)
def test_the_next_set_up_does_what_is_missing(root: Path, files: dict, expected: list[str]) -> None:
    assert steps(root) == STEPS
    for name, text in files.items():
        assert (root / name).exists()
        (root / name).write_text(text)
    assert steps(root) == expected
    assert steps(root) == []


@pytest.mark.parametrize(('torch', 'compiles'), [('2.10.0', False), ('2.9.0', True)])
def test_a_wheel_of_the_index_is_taken_if_it_is_for_this_torch(
    root: Path, monkeypatch: pytest.MonkeyPatch, torch: str, compiles: bool
) -> None:
    monkeypatch.setattr(Environment, 'in_index', torch)
    assert steps(root) == (STEPS if compiles else REMADE)
    (root / '.venv/mmcontnet.stamp').write_text('')
    monkeypatch.setattr(Environment, 'in_index', None)
    assert steps(root) == REMADE  # it was kept


def test_a_wheel_of_the_index_spares_the_compiler(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('CXX', 'none')
    with pytest.raises(setup_env.SetupError, match='install g'):
        steps(root)
    assert Environment(root, setup_env.MODULES, upstream=False).installed[0] == ''  # no long work
    monkeypatch.setattr(Environment, 'in_index', '2.10.0')
    assert steps(root) == REMADE


def test_an_environment_of_someone_else_is_left_alone(root: Path) -> None:
    (root / '.venv').mkdir()
    (root / '.venv' / 'precious').touch()
    with pytest.raises(setup_env.SetupError, match='not made by this script'):
        steps(root)
    assert [path.name for path in (root / '.venv').iterdir()] == ['precious']


def test_what_compiling_lacks_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CUDA_HOME', str(root))
    monkeypatch.setattr(setup_env.shutil, 'which', {'true': 'true'}.get)
    setup_env.check_compiler('cpu')
    with pytest.raises(setup_env.SetupError, match='no nvcc .*MMCONTNET_CPU_ONLY=1'):
        setup_env.check_compiler('cuda')
    monkeypatch.setattr(setup_env.sysconfig, 'get_path', lambda name: str(root))
    with pytest.raises(setup_env.SetupError, match='no Python.h: install'):
        setup_env.check_compiler('cpu')
    monkeypatch.setenv('CXX', 'none')
    with pytest.raises(setup_env.SetupError, match=r'no C\+\+ compiler: install g\+\+'):
        setup_env.check_compiler('cpu')


def test_modules_that_fail_or_crash_are_told(root: Path) -> None:
    environment = setup_env.Environment(root, [], upstream=False)
    environment.env['PYTHONPATH'] = str(root)
    (root / 'torch.py').write_text('__version__ = 1\nclass cuda: is_available = lambda: False')
    assert environment.probe(['json'], sys.executable) == ('', '1', 'cpu')
    assert 'absent cannot be used: not' in environment.probe(['absent'], sys.executable)[0]
    (root / 'torch.py').write_text('import os; os.abort()')
    assert 'crashes' in environment.probe([], sys.executable)[0]
    assert 'does not start' in environment.probe([])[0]


def test_an_interpreter_with_everything_is_used_as_it_is(monkeypatch) -> None:
    monkeypatch.setattr(setup_env, 'MODULES', ['json'])
    assert setup_env.interpreter(dev=False, upstream=False) == sys.executable


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_set_up_waits_for_its_turn_and_stops_what_it_started(root, sent) -> None:
    program = f"""
import signal, sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import setup_env
signal.signal(signal.SIGINT, signal.default_int_handler)
def interpreter(**options):
    environment = setup_env.Environment(setup_env.Path({str(root)!r}), [], False)
    environment.make_venv = lambda: environment.run('sh', '-c', 'sleep 1; echo started; sleep 600')
    environment.venv.mkdir()
    environment.ensure()
setup_env.interpreter, setup_env.WHEELS, sys.argv = interpreter, None, ['setup_env.py']
setup_env.say = lambda text: print(text, flush=True)
setup_env.main()
"""
    with (root / '.venv.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process = subprocess.Popen([sys.executable, '-c', program], env=dict(os.environ), **pipes)
        assert 'waiting for its end' in process.stdout.readline()
    assert process.stderr.readline() == 'started\n'
    process.send_signal(sent)
    assert process.communicate(timeout=20)[1].endswith('interrupted; start again to go on\n')
    # What still slept would still hold the lock.
    subprocess.run(['flock', '--timeout', '10', root / '.venv.lock', 'true'], check=True)
