"""Make the environment that mmcontnet's scripts and tests run in, and print its interpreter.

Runs on the standard library of any Python 3.10-3.12. If that Python already has everything, it is
used as it is; else `.venv` in the repository root is made, finished, updated or repaired. Stdout
gets the path of the interpreter to use and nothing else; progress and errors go to stderr.

mmcv is not in the ordinary requirements: its operators must be compiled against the torch that is
there. That takes minutes, so the wheel is kept in `~/.cache/mmcontnet/wheels`, by torch version.

With --upstream it makes a second environment, `.venv-upstream`, for the tests of what must also run
under upstream's mmengine and mmcv-lite, which are not maintained any more, and an older torch.

Each step is written down in `mmcontnet.json` there once it is done, so that a set-up may be killed
at any moment: the next start sees what is missing. Environment variables:

    MMCONTNET_CPU_ONLY=1  do not compile for the GPU, even if torch sees one
    MAX_JOBS              compilers to run at once, instead of what cores and memory allow
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODULES = ['torch', 'torchvision', 'mmengine', 'mmcv.ops', 'mmdet', 'mmseg', 'mmpretrain']
DEV_MODULES = ['pytest', 'xdist', 'hypothesis', 'ruff', 'mypy']
UPSTREAM_MODULES = ['torch', 'mmengine', 'mmcv', 'pytest', 'xdist', 'hypothesis']
GB = 1024**3
ENVIRONMENT_GB = 10  # 8 of packages (torch brings CUDA's libraries), the rest to download and build
JOB = 1.5 * GB  # what one compiler takes on mmcv's larger files

# Run by the interpreter that is asked about. torch's own answer on GPUs, or FORCE_CUDA, is also
# what mmcv's setup.py goes by when it decides what to compile.
PROBE = """
import importlib, json, os, sys, sysconfig
facts = {'missing': {}, 'tag': 'cp%d%d' % sys.version_info[:2]}
facts['headers'] = os.path.exists(sysconfig.get_path('include') + '/Python.h')
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
    except BaseException as error:  # a broken binary may raise anything
        facts['missing'][name] = str(error).partition('\\n')[0] or type(error).__name__
        continue
    if name == 'torch':
        facts['torch'] = module.__version__
        facts['gpu'] = module.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1'
    if name == 'mmcv.ops':
        facts['cuda_ops'] = module.get_compiling_cuda_version() != 'not available'
print(json.dumps(facts))
"""

DISK_FULL = 'the disk is full'
FAILURES = {
    r'no space left on device|disk quota exceeded|os error (28|122)\b': DISK_FULL,
    r'connection (refused|reset|aborted|error)|connect ?(error|timeout)|name resolution|dns error'
    r'|newconnectionerror|error sending request|failed to fetch|network is unreachable'
    r'|timed out|proxyerror': 'could not download: no network?',
    r'killed signal terminated|signal killed': 'the compiler ran out of memory: try MAX_JOBS=1',
}


class SetupError(Exception):
    """What the user has to know, in one line."""


@dataclass
class Facts:
    """What an interpreter says of itself; `missing` maps the modules it cannot import to why."""

    tag: str = ''
    headers: bool = False
    torch: str = ''
    gpu: bool = False
    cuda_ops: bool = False
    missing: dict[str, str] = field(default_factory=dict)


def say(text: str) -> None:
    """Tell the user; stdout is kept for the answer."""
    print(text, file=sys.stderr, flush=True)


def probe(python: str | Path, modules: list[str], env: Mapping[str, str]) -> Facts:
    """Ask `python` what it has."""
    command = [str(python), '-c', PROBE, *modules]
    try:
        output = subprocess.run(command, env=env, capture_output=True, text=True).stdout
        return Facts(**json.loads(output.splitlines()[-1]))
    except (OSError, IndexError, ValueError):
        if not modules:
            raise SetupError(f'{python} does not run') from None
    # Binaries of two torch versions may crash Python instead of raising: leave the last one out.
    facts = probe(python, modules[:-1], env)
    facts.missing[modules[-1]] = 'importing it crashes Python'
    return facts


def mmcv_problem(built_for: str, facts: Facts) -> str:
    """Why mmcv, compiled for the torch version `built_for`, cannot be used; '' if it can."""
    if built_for and built_for != facts.torch:
        return f'mmcv was built for torch {built_for}, but torch is {facts.torch}'
    if 'mmcv.ops' in facts.missing:
        return f'mmcv has no compiled operators that work ({facts.missing["mmcv.ops"]})'
    if facts.gpu and not facts.cuda_ops:
        return 'mmcv was built without CUDA, but torch sees a GPU'
    return ''


def explain(output: str, folder: Path) -> str:
    """Say in a few words why a command that printed `output` failed."""
    free = shutil.disk_usage(folder).free / GB
    if free < 0.1:  # a full disk may leave no room for the message either
        output = 'No space left on device'
    for pattern, reason in FAILURES.items():
        if re.search(pattern, output, re.IGNORECASE):
            space = f' ({free:.1f} GB free, about {ENVIRONMENT_GB} GB needed)'
            return reason + space * (reason == DISK_FULL)
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ['no message']
    return next((line for line in reversed(lines) if 'error' in line.lower()), lines[-1])[:200]


def usable_jobs() -> int:
    """How many compilers the cores and the memory free for this process can carry."""
    limits = [float(len(os.sched_getaffinity(0)))]
    for path in map(Path, ('/proc/meminfo', '/sys/fs/cgroup/memory.max')):
        text = path.read_text() if path.exists() else ''
        limits += [int(kb) * 1024 / JOB for kb in re.findall(r'MemAvailable: +(\d+) kB', text)]
        limits += [int(size) / JOB for size in re.findall(r'^\d+$', text)]  # a container's limit
    return max(1, int(min(limits)))


def check_build_tools(facts: Facts, env: Mapping[str, str]) -> None:
    """Name what a compilation would lack, before the long work."""
    path = env.get('PATH')
    if not any(shutil.which(name, path=path) for name in (env.get('CXX') or 'c++', 'g++')):
        raise SetupError('no C++ compiler for mmcv: install g++ (g++ or build-essential on Debian)')
    if not facts.headers:
        raise SetupError('no Python.h for mmcv: install the headers (python3-dev on Debian)')
    nvcc = Path(env.get('CUDA_HOME') or '/usr/local/cuda', 'bin', 'nvcc')
    if facts.gpu and not shutil.which('nvcc', path=path) and not nvcc.exists():
        raise SetupError(
            'torch sees a GPU, but there is no nvcc to compile mmcv with: install the CUDA toolkit '
            'and set CUDA_HOME, or set MMCONTNET_CPU_ONLY=1 to go on without CUDA operators'
        )


class Environment:
    """`.venv` in a repository `root`, made with the interpreter `base`."""

    folder = '.venv'
    requirements = 'setup.txt'
    modules = MODULES
    dev_modules = DEV_MODULES
    size_gb = 8
    with_mmcv = True  # compiled, and mmcontnet installed beside it

    def __init__(self, root: Path, base: str, env: Mapping[str, str], lock: int) -> None:
        """Take the environment variables `env`, and `lock`, a file descriptor held meanwhile."""
        self.root, self.base, self.lock = root, base, lock
        self.env = {k: v for k, v in env.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
        if env.get('MMCONTNET_CPU_ONLY') == '1':
            self.env.update(CUDA_VISIBLE_DEVICES='', FORCE_CUDA='0')
        self.venv = root / self.folder
        self.python = self.venv / 'bin' / 'python'
        self.marker = self.venv / 'mmcontnet.json'
        self.log = self.venv / 'mmcontnet.log'
        self.setup_txt = root / 'requirements' / self.requirements
        self.mmcv_txt = root / 'requirements' / 'mmcv.txt'
        self.digest = hashlib.sha256(self.setup_txt.read_bytes()).hexdigest()
        self.mmcv = self.mmcv_txt.read_text().split('onedl-mmcv==')[1].split()[0]
        cache = env.get('XDG_CACHE_HOME') or Path(env.get('HOME') or Path.home(), '.cache')
        self.wheels = Path(cache, 'mmcontnet', 'wheels')
        self.done: dict[str, Any] = {}

    def ensure(self) -> None:
        """Do what is not done yet, so that `self.python` has everything."""
        started = time.monotonic()
        if self.is_foreign():
            return
        if self.marker.exists():
            with contextlib.suppress(ValueError):
                self.done = dict(json.loads(self.marker.read_text()))
        if reason := self.why_start_over():
            self.start_over(reason)
        elif self.done['requirements'] != self.digest:
            say(f'the requirements have changed: updating {self.folder}')
            self.install_requirements()

        if self.with_mmcv:
            self.ensure_mmcv()

        if not self.done.get('whole'):
            if self.with_mmcv:
                options = ['--no-deps', '--no-build-isolation', '-e', self.root]
                command = [self.python, '-m', 'pip', 'install', *options]
                self.run('installing mmcontnet', *command)
            facts = probe(self.python, self.modules + self.dev_modules, self.env)
            for name, problem in facts.missing.items():
                made = f'{self.folder} is made'
                raise SetupError(f'{made}, but {name} cannot be imported: {problem}')
            self.record(whole=True)
            say(f'{self.folder} is ready ({time.monotonic() - started:.0f} s)')

    def ensure_mmcv(self) -> None:
        """Install mmcv if it is not there or does not go with the torch that is."""
        if self.done.get('mmcv') == self.mmcv:
            facts = probe(self.python, ['torch', 'mmcv.ops'], self.env)
            if 'torch' in facts.missing:
                self.start_over(f'torch cannot be imported ({facts.missing["torch"]})')
            elif problem := mmcv_problem(self.done.get('torch', ''), facts):
                say(problem)
                self.record(mmcv='', whole=False)
        if self.done.get('mmcv') != self.mmcv:
            self.install_mmcv()

    def is_foreign(self) -> bool:
        """Whether someone else made the folder: it may be used if it is complete, never changed."""
        if not self.venv.exists():
            return False
        if all(path.name.startswith('mmcontnet.') for path in self.venv.iterdir()):
            return False  # empty, or killed before or while the first marker was written
        if self.marker.exists():
            return False
        facts = probe(self.python, self.modules, self.env) if self.python.exists() else Facts()
        problem = mmcv_problem('', facts) if self.with_mmcv else ''
        lacking = [*facts.missing, *filter(None, [problem])]
        for name in lacking if facts.tag else ['a Python']:
            raise SetupError(
                f'{self.venv} was not made by this script and lacks {name}: move it away, or '
                'complete it, and start again'
            )
        return True

    def why_start_over(self) -> str:
        """What forbids to build on what is there; '' if nothing does."""
        if not self.marker.exists():
            return f'there is no {self.folder} yet'
        if not self.done.get('requirements'):
            return 'an earlier set-up did not get to its end'
        if self.done.get('root') != str(self.root):
            return f'the repository was in {self.done.get("root")} before'
        return '' if self.python.exists() else f'the Python that {self.folder} rests on is gone'

    def start_over(self, reason: str) -> None:
        """Make the environment from nothing, up to the point where only mmcv is missing."""
        say(f'{reason}: making {self.folder} with {self.base}')
        self.make_venv()
        self.install_requirements()

    def record(self, **steps: Any) -> None:
        """Write down what is done, all of it or nothing."""
        self.done.update(steps)
        partial = self.marker.with_suffix('.partial')
        partial.write_text(json.dumps(self.done, indent=2))
        partial.replace(self.marker)

    def make_venv(self) -> None:
        """Make an empty environment, in the place of what an earlier set-up left."""
        self.venv.mkdir(exist_ok=True)
        self.done = {}
        self.record(root=str(self.root))  # first of all: what follows is ours, and not whole
        for path in self.venv.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path not in (self.marker, self.log):
                path.unlink()
        free = shutil.disk_usage(self.root).free / GB
        if free < ENVIRONMENT_GB:
            raise SetupError(f'{free:.1f} GB free in {self.root}, {ENVIRONMENT_GB} GB needed')
        facts = probe(self.base, [], self.env)
        if self.with_mmcv and not any(self.wheels.glob(f'mmcv-{self.mmcv}-*-{facts.tag}-*/*.whl')):
            check_build_tools(facts, self.env)
        try:
            self.run(f'making {self.folder}', self.base, '-m', 'venv', self.venv)
        except SetupError as error:
            hint = 'it needs its venv module (python3-venv on Debian)'
            raise SetupError(f'{self.base} cannot make {self.folder}: {hint}; {error}') from None

    def install_requirements(self) -> None:
        """Install all but mmcv; with uv, which takes a tenth of pip's time, if it can be had."""
        self.record(requirements='', whole=False)
        what = 'installing PyTorch and the OpenMMLab packages'
        say(f'{what} ({self.size_gb} GB)')
        pip_install = [self.python, '-m', 'pip', 'install']
        uv = shutil.which('uv', path=self.env.get('PATH'))
        try:
            if not uv:
                uv = str(self.venv / 'bin' / 'uv')
                self.run('fetching uv', *pip_install, '--retries', '1', 'uv')
            options = ['--python', self.python, '--no-deps', '-r', self.setup_txt]
            self.run(what, uv, 'pip', 'install', *options)
        except SetupError as error:
            if DISK_FULL in str(error):
                raise
            say(f'{error}; trying pip')
            self.make_venv()  # uv may have left a package half installed
            self.run(what, *pip_install, '--no-deps', '-r', self.setup_txt)
        self.record(requirements=self.digest)

    def install_mmcv(self) -> None:
        """Install the wheel that was built for this torch, or build it."""
        self.record(mmcv='', whole=False)
        facts = probe(self.python, ['torch'], self.env)
        if not facts.torch:
            raise SetupError(f'torch cannot be imported: remove {self.venv} and start again')
        say(f'installing mmcv {self.mmcv} for torch {facts.torch}')
        device = 'cuda' if facts.gpu else 'cpu'
        kept = self.wheels / f'mmcv-{self.mmcv}-torch{facts.torch}-{facts.tag}-{device}'
        problem = 'none is kept'
        if any(kept.glob('*.whl')) and (problem := self.try_wheel(kept)):
            say(f'{problem}: deleting the wheel in {kept} and building it again')
            shutil.rmtree(kept)
        if problem:
            self.build_wheel(kept, facts)
            problem = self.try_wheel(kept)
        if problem:
            raise SetupError(f'mmcv was built, but: {problem}')
        self.record(mmcv=self.mmcv, torch=facts.torch)

    def try_wheel(self, folder: Path) -> str:
        """Install mmcv from `folder`; return what is wrong with it, '' if nothing."""
        options = ['--no-deps', '--no-index', '--force-reinstall', *folder.glob('*.whl')]
        try:
            self.run('installing mmcv', self.python, '-m', 'pip', 'install', *options)
        except SetupError as error:
            if DISK_FULL in str(error):
                raise  # not the wheel's fault
            return str(error)
        return mmcv_problem('', probe(self.python, ['torch', 'mmcv.ops'], self.env))

    def build_wheel(self, kept: Path, facts: Facts) -> None:
        """Compile mmcv from its sdist, and put the wheel into `kept` when it is complete."""
        check_build_tools(facts, self.env)
        jobs = self.env.get('MAX_JOBS') or str(usable_jobs())
        say(
            f'compiling mmcv {self.mmcv} for torch {facts.torch} with MAX_JOBS={jobs}: takes 7-10 '
            'minutes on two cores, once (the wheel is kept)'
        )
        self.wheels.mkdir(parents=True, exist_ok=True)
        # pip's own cache must stay out of it: its wheels are keyed by the sdist, not by torch.
        options = ['--no-build-isolation', '--no-cache-dir', '--no-deps']
        options += ['--no-binary', 'onedl-mmcv', '-r', str(self.mmcv_txt)]
        with tempfile.TemporaryDirectory(dir=self.wheels, prefix='.build-') as folder:
            wheel = [self.python, '-m', 'pip', 'wheel', *options, '-w', Path(folder, 'wheel')]
            self.run('compiling mmcv', *wheel, MAX_JOBS=jobs)
            try:
                Path(folder, 'wheel').rename(kept)
            except OSError:
                if not any(kept.glob('*.whl')):  # or another checkout was faster
                    raise

    def run(self, what: str, *command: object, **env: str) -> None:
        """Run a command into the log, saying now and then that it is alive."""
        started = time.monotonic()
        with self.log.open('a+') as log:
            begin = log.tell()
            # Own session: what it starts can be stopped with it. And it inherits the lock: if we
            # are killed, the next set-up waits until this command has ended.
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.root,
                env={**self.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self.lock],
                start_new_session=True,
            )
            try:
                while True:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        status = process.wait(20)
                        break
                    say(f'  {what}: {time.monotonic() - started:.0f} s')
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                raise
            log.seek(begin)
            if status:
                reason = explain(log.read(), self.venv)
                raise SetupError(f'{what} failed: {reason} (log: {self.log})')


class UpstreamEnvironment(Environment):
    """`.venv-upstream`: mmcv-lite has nothing to compile, and mmcontnet is not installed."""

    folder = '.venv-upstream'
    requirements = 'upstream.txt'
    modules = UPSTREAM_MODULES
    dev_modules = []
    size_gb = 5
    with_mmcv = False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold `path` against other set-ups of this repository."""
    with path.open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('another set-up of this repository is at work: waiting for its end')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def check_python(version: tuple[int, int]) -> None:
    """Refuse a Python that the pinned packages do not support."""
    if not (3, 10) <= version <= (3, 12):
        raise SetupError(
            'mmcontnet needs Python 3.10, 3.11 or 3.12; this one is {}.{}'.format(*version)
        )


def interpreter(root: Path, modules: list[str]) -> str:
    """The interpreter to use: this one if it has `modules`, else `.venv`'s, made if need be."""
    check_python(sys.version_info[:2])
    # Whether anything is absent is seen at once; whether all of it works takes imports.
    present = all(importlib.util.find_spec(name.partition('.')[0]) for name in modules)
    in_venv = Path(sys.prefix) == root / '.venv'
    if present and not in_venv:
        facts = probe(sys.executable, modules, os.environ)
        problems = [f'{name}: {why}' for name, why in facts.missing.items()]
        problems = problems or list(filter(None, [mmcv_problem('', facts)]))
        if not problems:
            return sys.executable
        say(f'{sys.executable} is not used: {problems[0]}')
    return make(Environment, root)


def make(kind: type[Environment], root: Path) -> str:
    """The interpreter of an environment that is made if need be."""
    base = getattr(sys, '_base_executable', sys.executable)  # it must not rest on itself
    with locked(root / f'{kind.folder}.lock') as lock:
        environment = kind(root, base, os.environ, lock)
        environment.ensure()
    return str(environment.python)


def main() -> int:
    """Print the interpreter, or one line on what is in the way."""
    parser = argparse.ArgumentParser(description='Make an environment; print its interpreter.')
    parser.add_argument('--dev', action='store_true', help='with what tests and lint need')
    parser.add_argument('--upstream', action='store_true', help="upstream's mmengine and mmcv-lite")
    args = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if args.upstream:
            check_python(sys.version_info[:2])
            print(make(UpstreamEnvironment, root))
        else:
            print(interpreter(root, MODULES + DEV_MODULES * args.dev))
    except SetupError as error:
        say(f'setup_env: {error}')
    except KeyboardInterrupt:
        say('setup_env: interrupted; start again to go on')
    except OSError as error:
        say(f'setup_env: {explain(str(error), Path(__file__).parent)}')
    else:
        return 0
    return 1


if __name__ == '__main__':
    sys.exit(main())
