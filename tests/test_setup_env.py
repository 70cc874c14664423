"""tools/setup_env.py, with a stand-in for Python that answers at once what it is asked."""

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / 'tools' / 'setup_env.py'
spec = importlib.util.spec_from_file_location('setup_env', SCRIPT)
setup_env = sys.modules['setup_env'] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_env)

# As `base` it makes `.venv`s of itself; in one it keeps in state.json what "is installed". A wheel
# of mmcv is a file with the torch version that it was built for.
STUB = """#!{python} -IS
import json, os, pathlib, sys, time
args, env = sys.argv[1:], os.environ
here = pathlib.Path(__file__).parent.parent
state_file = here / 'state.json'
state = json.loads(state_file.read_text()) if state_file.exists() else {{}}
if args[0] == '-c':
    missing = {{}} if state.get('torch') else {{'torch': 'No module named torch'}}
    if not state.get('mmcv') or state['mmcv'] != state.get('torch'):
        missing['mmcv.ops'] = 'undefined symbol'
    print(json.dumps(dict(tag='cp311', headers=True, torch=state.get('torch', ''), missing={{
        name: missing[name] for name in args[2:] if name in missing}},
        gpu=env.get('CUDA_VISIBLE_DEVICES', env.get('STUB_GPU', '')) != '')))
    sys.exit()
command = ' '.join(args)
with open(env['STUB_CALLS'], 'a') as calls:
    print(command, file=calls)
for part, message in json.loads(env.get('STUB_FAIL', '{{}}')).items():
    if part in command:
        sys.exit(message)
if env.get('STUB_HANG', 'nothing') in command:
    time.sleep(600)
if args[1] == 'venv':
    python = pathlib.Path(args[2], 'bin', 'python')
    python.parent.mkdir()
    python.write_text(pathlib.Path(__file__).read_text())
    python.chmod(0o755)
elif args[2] == 'wheel':
    folder = pathlib.Path(args[-1])
    folder.mkdir()
    (folder / 'mmcv.whl').write_text(state['torch'])
elif args[-1].endswith(('setup.txt', 'upstream.txt')):
    state['torch'] = pathlib.Path(args[-1]).read_text()
elif args[-1].endswith('.whl'):
    state['mmcv'] = pathlib.Path(args[-1]).read_text()
elif args[-1] == 'uv':
    sys.exit('no uv in this test')
if args[1] != 'venv':
    state_file.write_text(json.dumps(state))
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A repository, a base interpreter and the variables they run under."""
    monkeypatch.setattr(setup_env, 'ENVIRONMENT_GB', 0)
    root, tools = tmp_path / 'repo', tmp_path / 'bin'
    (root / 'requirements').mkdir(parents=True)
    (root / 'requirements' / 'setup.txt').write_text('2.10.0')
    (root / 'requirements' / 'mmcv.txt').write_text('onedl-mmcv==2.3.6\n')
    tools.mkdir()
    for name, text in (('python', STUB.format(python=sys.executable)), ('g++', '#!/bin/sh\n')):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    cache, calls = tmp_path / 'cache', tmp_path / 'calls'
    env = {'PATH': str(tools), 'XDG_CACHE_HOME': str(cache), 'STUB_CALLS': str(calls)}
    return SimpleNamespace(
        root=root, base=tools / 'python', env=env, calls=calls, venv=root / '.venv', cache=cache
    )


@pytest.fixture
def ensure(world: SimpleNamespace) -> Callable[..., str]:
    """Set up with additional variables; returns the commands that were run."""

    def ensure(**env: str) -> str:
        world.calls.write_text('')
        with setup_env.locked(world.root / '.venv.lock') as lock:
            variables = {**world.env, **env}
            setup_env.Environment(world.root, str(world.base), variables, lock).ensure()
        return world.calls.read_text()

    return ensure


def stored(world: SimpleNamespace, **changes: str) -> dict[str, object]:
    """What `.venv` "has installed", after changing it."""
    path = world.venv / 'state.json'
    state = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(state))
    return state


def test_fresh_setup_builds_mmcv_once_and_second_start_runs_nothing(world, ensure, capfd) -> None:
    calls = ensure()
    assert [part in calls for part in ('venv', 'setup.txt', 'wheel', '-e')] == [True] * 4
    assert stored(world) == {'torch': '2.10.0', 'mmcv': '2.10.0'}
    capfd.readouterr()
    assert ensure() == ''
    assert capfd.readouterr() == ('', '')


def test_second_checkout_takes_the_kept_wheel(world, ensure) -> None:
    ensure()
    shutil.rmtree(world.venv)
    assert 'pip wheel' not in ensure()


def test_kept_wheel_that_does_not_work_is_built_again(world, ensure, capfd) -> None:
    ensure()
    shutil.rmtree(world.venv)
    (wheel,) = world.cache.rglob('*.whl')
    wheel.write_text('2.9.0')
    assert 'pip wheel' in ensure()
    assert 'deleting the wheel' in capfd.readouterr().err
    assert wheel.read_text() == '2.10.0'


def test_kept_wheel_survives_a_full_disk(world, ensure) -> None:
    ensure()
    shutil.rmtree(world.venv)
    with pytest.raises(setup_env.SetupError, match='the disk is full'):
        ensure(STUB_FAIL=json.dumps({'mmcv.whl': 'No space left on device'}))
    assert len(list(world.cache.rglob('*.whl'))) == 1


def test_wheel_that_another_checkout_kept_meanwhile_is_used(world, ensure) -> None:
    ensure()
    (wheel,) = world.cache.rglob('*.whl')
    environment = setup_env.Environment(world.root, str(world.base), world.env, lock=0)
    environment.build_wheel(wheel.parent, setup_env.Facts(headers=True, torch='2.10.0'))
    assert list(world.cache.rglob('*.whl')) == [wheel]


@pytest.mark.parametrize('step', ['-m venv', 'setup.txt', 'pip wheel', 'mmcv.whl', '-e'])
def test_setup_that_failed_anywhere_is_finished_by_the_next(world, ensure, step: str) -> None:
    with pytest.raises(setup_env.SetupError):
        ensure(STUB_FAIL=json.dumps({step: 'error: something'}))
    assert not json.loads((world.venv / 'mmcontnet.json').read_text()).get('whole')
    ensure()
    assert ensure() == ''


@pytest.mark.parametrize('leave', [[], ['mmcontnet.partial']])
def test_venv_killed_before_its_first_marker_is_ours(world, ensure, leave: list[str]) -> None:
    world.venv.mkdir()
    for name in leave:
        (world.venv / name).touch()
    assert '-m venv' in ensure()


@pytest.mark.parametrize('text', ['', '{"whole": tr', '[]', '{"whole": true}'])
def test_unreadable_marker_means_not_whole(world, ensure, text: str) -> None:
    ensure()
    (world.venv / 'mmcontnet.json').write_text(text)
    assert '-m venv' in ensure()


def test_foreign_incomplete_venv_is_refused_and_left_alone(world, ensure) -> None:
    world.venv.mkdir()
    (world.venv / 'precious').write_text('data')
    with pytest.raises(setup_env.SetupError, match='not made by this script'):
        ensure()
    assert [path.name for path in world.venv.iterdir()] == ['precious']


def test_foreign_complete_venv_is_used(world, ensure) -> None:
    ensure()
    (world.venv / 'mmcontnet.json').unlink()
    assert ensure() == ''


def test_mmcv_built_for_another_torch_is_rebuilt(world, ensure, capfd) -> None:
    ensure()
    stored(world, torch='2.11.0')
    assert 'pip wheel' in ensure()
    assert 'mmcv was built for torch 2.10.0, but torch is 2.11.0' in capfd.readouterr().err
    assert stored(world)['mmcv'] == '2.11.0'


def test_mmcv_without_operators_is_installed_again(world, ensure, capfd) -> None:
    ensure()
    stored(world, mmcv='')
    ensure()
    assert 'mmcv has no compiled operators' in capfd.readouterr().err
    assert ensure() == ''


def test_changed_requirements_update_torch_and_so_mmcv(world, ensure, capfd) -> None:
    ensure()
    (world.root / 'requirements' / 'setup.txt').write_text('2.12.0')
    calls = ensure()
    assert 'the requirements have changed' in capfd.readouterr().err
    assert 'setup.txt' in calls and 'pip wheel' in calls
    assert stored(world) == {'torch': '2.12.0', 'mmcv': '2.12.0'}


def test_moved_repository_gets_a_new_venv(world, ensure, capfd) -> None:
    ensure()
    world.root = world.root.rename(world.root.with_name('moved'))
    assert '-m venv' in ensure()


def test_broken_torch_gets_a_new_venv(world, ensure) -> None:
    ensure()
    stored(world, torch='')
    assert '-m venv' in ensure()


def test_gpu_without_nvcc_is_one_line_and_cpu_only_goes_on(world, ensure, monkeypatch) -> None:
    monkeypatch.setattr(Path, 'exists', lambda p, real=Path.exists: p.name != 'nvcc' and real(p))
    with pytest.raises(setup_env.SetupError, match='MMCONTNET_CPU_ONLY=1'):
        ensure(STUB_GPU='1')
    assert 'pip wheel' in ensure(STUB_GPU='1', MMCONTNET_CPU_ONLY='1')
    assert all(wheel.parent.name.endswith('-cpu') for wheel in world.cache.rglob('*.whl'))


def test_missing_compiler_is_told_before_the_long_work(world, ensure) -> None:
    (world.base.parent / 'g++').unlink()
    with pytest.raises(setup_env.SetupError, match=r'install g\+\+'):
        ensure()
    assert world.calls.read_text() == ''


def test_upstreams_environment_compiles_nothing_and_is_found_again(world, monkeypatch) -> None:
    (world.root / 'requirements' / 'upstream.txt').write_text('2.4.1')
    (world.base.parent / 'g++').unlink()
    monkeypatch.setattr(setup_env.sys, '_base_executable', str(world.base), raising=False)
    for name, value in world.env.items():
        monkeypatch.setenv(name, value)
    for calls in (['-m venv', 'upstream.txt'], []):
        world.calls.write_text('')
        python = setup_env.make(setup_env.UpstreamEnvironment, world.root)
        assert python == str(world.root / '.venv-upstream' / 'bin' / 'python')
        assert all(call in world.calls.read_text() for call in calls)
        assert 'mmcv' not in world.calls.read_text() and ' -e ' not in world.calls.read_text()
    assert world.calls.read_text() == '' and not world.venv.exists()
    assert 'torch": "2.4.1' in (world.root / '.venv-upstream' / 'state.json').read_text()


def test_too_little_space_is_told_before_the_long_work(world, ensure, monkeypatch) -> None:
    monkeypatch.setattr(setup_env, 'ENVIRONMENT_GB', 10**9)
    with pytest.raises(setup_env.SetupError, match='GB free .* 1000000000 GB needed'):
        ensure()
    assert world.calls.read_text() == ''


@pytest.mark.parametrize(
    ('printed', 'told'),
    [
        ("NewConnectionError('<HTTPSConnection>: [Errno 111] Connection refused')", 'no network'),
        ('error: Failed to fetch: `https://x/torch`\n  dns error', 'no network'),
        ('Temporary failure in name resolution\nERROR: No matching distribution', 'no network'),
        ('OSError: [Errno 28] No space left on device', 'the disk is full .*GB free'),
        ('error: failed to write\n  Disk quota exceeded (os error 122)', 'the disk is full'),
        ('c++: fatal error: Killed signal terminated program cc1plus', 'out of memory'),
        ('many lines\nERROR: something new\nbye', 'ERROR: something new'),
    ],
)
def test_failure_is_explained_in_one_line(world, ensure, printed: str, told: str) -> None:
    with pytest.raises(setup_env.SetupError, match=told) as caught:
        ensure(STUB_FAIL=json.dumps({'setup.txt': printed}))
    assert '\n' not in str(caught.value)
    assert 'mmcontnet.log' in str(caught.value)


def test_failing_uv_falls_back_to_pip(world, ensure) -> None:
    uv = world.base.with_name('uv')
    uv.write_text('#!/bin/sh\necho error: uv is ill\nexit 2\n')
    uv.chmod(0o755)
    assert 'pip install --no-deps -r' in ensure()
    assert ensure() == ''


def start(world: SimpleNamespace, **env: str) -> subprocess.Popen:
    """Start the command in the repository of `world`, with its base interpreter."""
    program = f"""
import importlib.util, signal, sys
# Tests that run in the background of a shell start with interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
spec = importlib.util.spec_from_file_location('setup_env', {str(SCRIPT)!r})
setup_env = sys.modules['setup_env'] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_env)
setup_env.__file__ = {str(world.root / 'tools' / 'setup_env.py')!r}
setup_env.ENVIRONMENT_GB = 0
setup_env.MODULES = ['nothing_of_this_name']
sys._base_executable = {str(world.base)!r}
sys.exit(setup_env.main())
"""
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    return subprocess.Popen([sys.executable, '-c', program], env={**world.env, **env}, **pipes)


def test_two_setups_at_once_wait_for_one_another(world) -> None:
    both = [start(world) for _ in range(2)]
    printed, told = zip(*(process.communicate(timeout=60) for process in both), strict=True)
    assert printed == (f'{world.venv}/bin/python\n',) * 2
    assert 'at work: waiting' in ''.join(told)
    assert world.calls.read_text().count('pip wheel') == 1


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
def test_interrupted_setup_stops_what_it_started(world, sent: signal.Signals) -> None:
    process = start(world, STUB_HANG='setup.txt')
    while not world.calls.exists() or 'setup.txt' not in world.calls.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(sent)
    printed, told = process.communicate(timeout=20)
    assert process.returncode == 1 and printed == ''
    assert told.endswith('interrupted; start again to go on\n') and 'Traceback' not in told
    with (world.root / '.venv.lock').open() as lock:  # which the hanging command would still hold
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not json.loads((world.venv / 'mmcontnet.json').read_text()).get('requirements')


@pytest.mark.parametrize('version', [(3, 9), (3, 13), (2, 7)])
def test_other_pythons_are_refused_with_the_accepted_versions(version: tuple[int, int]) -> None:
    with pytest.raises(setup_env.SetupError, match=r'3\.10, 3\.11 or 3\.12; this one is'):
        setup_env.check_python(version)


@pytest.mark.parametrize('version', [(3, 10), (3, 11), (3, 12)])
def test_supported_pythons_are_accepted(version: tuple[int, int]) -> None:
    setup_env.check_python(version)


def test_modules_that_crash_python_count_as_missing(tmp_path: Path) -> None:
    (tmp_path / 'fine.py').touch()
    (tmp_path / 'crash.py').write_text('import os; os.abort()')
    env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    facts = setup_env.probe(sys.executable, ['fine', 'absent', 'crash'], env)
    assert set(facts.missing) == {'absent', 'crash'}
    assert facts.tag == 'cp{}{}'.format(*sys.version_info)


def test_interpreter_with_everything_is_used_as_it_is(tmp_path: Path) -> None:
    assert setup_env.interpreter(tmp_path, ['json', 'pytest']) == sys.executable
    assert not list(tmp_path.iterdir())
