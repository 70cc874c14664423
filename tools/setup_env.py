"""Make the environment that mmcontnet's scripts and tests run in, and print its interpreter.

If the Python that runs this (3.10 to 3.12) has all packages, it is used as it is. Else `.venv` in
the repository is, which is made if it is not there, not whole, or not what the requirements say.
Progress and errors go to stderr. mmcv's operators are compiled for the installed torch, once: the
wheel is kept in `~/.cache/mmcontnet/wheels`.

A complete environment is stamped with the repository's path, a digest of the requirements and
torch's version. One without a stamp is made anew, so a set-up may be killed at any time.
Environment variables: MMCONTNET_CPU_ONLY=1 compiles without CUDA even if torch sees a GPU, MAX_JOBS
is the number of compilers to run at once.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

MODULES = ['torchvision', 'mmengine', 'mmcv._ext', 'mmdet', 'mmseg', 'mmpretrain']  # and torch
DEV_MODULES = ['pytest', 'xdist', 'hypothesis', 'ruff', 'mypy', 'onnxruntime', 'onnxscript']
DEV_MODULES += ['cityscapesscripts', 'lightning', 'modelindex']
UPSTREAM_MODULES = ['mmengine', 'mmcv', 'pytest', 'xdist', 'hypothesis']
NEEDED_GB = 10  # torch brings CUDA's libraries
WHEELS = Path.home() / '.cache/mmcontnet/wheels'
GB_PER_JOB = 1.5  # that a compiler takes for mmcv's larger files

# torch's answer about GPUs, and FORCE_CUDA, also decide what mmcv's setup.py compiles.
PROBE = """
import importlib.util, os, sys
name = 'torch'
try:
    import torch
    cuda = torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1'
    print(torch.__version__, 'cuda' if cuda else 'cpu')
    for name in sys.argv[1:]:
        if not importlib.util.find_spec(name.partition('.')[0]):
            raise ImportError('not installed')
        if name == 'mmcv._ext':
            from mmcv import _ext
            if cuda and _ext.get_compiling_cuda_version() == 'not available':
                raise ImportError('compiled without CUDA, but torch sees a GPU')
except BaseException as error:  # a broken binary may raise anything
    sys.exit(f'{name} cannot be used: ' + (str(error) or type(error).__name__).splitlines()[0])
"""


class SetupError(Exception):
    """What the user has to know, in one line."""


def say(text: str) -> None:
    """Tell the user; stdout is for the interpreter's path."""
    print(text, file=sys.stderr, flush=True)


def check_compiler(device: str) -> None:
    """Name what compiling mmcv would lack."""
    nvcc = Path(os.environ.get('CUDA_HOME') or '/usr/local/cuda', 'bin', 'nvcc').exists()
    found = {
        'C++ compiler: install g++': shutil.which(os.environ.get('CXX') or 'c++'),
        "Python.h: install Python's headers (python3-dev on Debian)": Path(
            sysconfig.get_path('include'), 'Python.h'
        ).exists(),
        'nvcc for the GPU: install the CUDA toolkit and set CUDA_HOME, or do without CUDA '
        'operators by MMCONTNET_CPU_ONLY=1': device == 'cpu' or nvcc or shutil.which('nvcc'),
    }
    if missing := [what for what, there in found.items() if not there]:
        raise SetupError(f'cannot compile mmcv: there is no {missing[0]}')


def join_sources(folder: Path) -> None:
    """Have mmcv's interface files, but for the largest, compiled as two.

    Nearly all of the time that one takes is for torch's headers, which each of them includes.
    """
    files = sorted(path for path in folder.glob('*.cpp') if path.name != 'pybind.cpp')
    for i in (0, 1):
        parts = [path.rename(path.with_suffix('.inc')) for path in files[i::2]]
        text = ''.join(f'#include "{path.name}"\n' for path in parts)
        (folder / f'joined_{i}.cpp').write_text(text)


class Environment:
    """`.venv`, or `.venv-upstream` for tests with upstream's packages, where nothing is compiled.

    Args:
        root: The repository.
        modules: What must work in a complete environment.
        upstream: Which of the two.
    """

    def __init__(self, root: Path, modules: list[str], upstream: bool) -> None:
        self.root, self.modules, self.upstream = root, modules, upstream
        self.venv = root / ('.venv-upstream' if upstream else '.venv')
        self.python = self.venv / 'bin' / 'python'
        self.stamp = self.venv / 'mmcontnet.stamp'  # also says that the folder is ours
        self.lock = (root / f'{self.venv.name}.lock').open('a')
        self.requirements = root / 'requirements' / ('upstream.txt' if upstream else 'setup.txt')
        self.mmcv_txt = self.requirements.with_name('mmcv.txt')
        self.env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
        self.env['PYTHONWARNINGS'] = 'ignore'  # setuptools has a long one for editable installs
        if os.environ.get('MMCONTNET_CPU_ONLY') == '1':
            self.env.update(CUDA_VISIBLE_DEVICES='', FORCE_CUDA='0')

    def probe(self, modules: list[str], python: str = '') -> tuple[str, str, str]:
        """Look for torch and modules: return what is wrong, torch's version and its device."""
        command = [python or str(self.python), '-c', PROBE, *modules]
        try:
            done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        except OSError:
            return f'{command[0]} does not start', '', ''
        torch, device = [*done.stdout.split(), '', ''][:2]
        problem = f'{command[0]} crashes'  # as with binaries of two versions of torch
        if done.returncode in (0, 1):
            problem = ''.join(done.stderr.splitlines()[-1:]) if done.returncode else ''
        return problem, torch, device

    def ensure(self) -> None:
        """Make `self.python` have all packages of the requirements, unless it has."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('another set-up of this repository is at work: waiting for its end')
            fcntl.flock(self.lock, fcntl.LOCK_EX)
        started = time.monotonic()
        problem, torch, _ = self.probe(self.modules)
        if self.stamp.exists():
            if not problem and self.stamp.read_text() == self.state(torch):
                return
            say(problem or 'the requirements, torch or the place of the repository have changed')
        self.make_venv()
        self.install_requirements()
        if not self.upstream:
            self.install_mmcv()
            self.pip('--no-build-isolation', '-e', self.root)
        problem, torch, _ = self.probe(self.modules)
        if problem:
            raise SetupError(f'{self.venv} is made, but {problem}')
        self.stamp.write_text(self.state(torch))
        say(f'{self.venv} is ready ({time.monotonic() - started:.0f} s)')

    def state(self, torch: str) -> str:
        """What a complete environment is stamped with."""
        pins = self.requirements.read_bytes() + self.mmcv_txt.read_bytes()
        return f'{self.root}\n{hashlib.sha256(pins).hexdigest()}\n{torch}'

    def make_venv(self) -> None:
        """Make an empty environment in the place of what we left there."""
        base = getattr(sys, '_base_executable', sys.executable)  # it must not rest on itself
        self.venv.mkdir(exist_ok=True)
        if any(self.venv.iterdir()) and not self.stamp.exists():
            raise SetupError(
                f'{self.venv} was not made by this script: move it away, or, if it has all that '
                'mmcontnet needs, activate it'
            )
        say(f'making {self.venv} with {base}')
        self.stamp.write_text('')
        for path in self.venv.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != self.stamp:
                path.unlink()
        if (free := shutil.disk_usage(self.venv).free / 1e9) < NEEDED_GB:
            raise SetupError(f'{free:.1f} GB free in {self.root}, {NEEDED_GB} GB needed')
        self.run(base, '-m', 'venv', self.venv)
        if not self.upstream and not any(WHEELS.glob('*/*.whl')):
            self.check_mmcv()  # before the long work

    def check_mmcv(self) -> None:
        """Name what compiling mmcv would lack, unless the user's index has a wheel to try."""
        try:
            check_compiler('cpu')
        except SetupError:
            with tempfile.TemporaryDirectory() as folder:
                if not self.fetch_mmcv(Path(folder, 'fetched')):
                    raise

    def install_requirements(self) -> None:
        """Install all but mmcv; with uv, which takes a tenth of pip's time, if it can be had."""
        say('installing PyTorch and OpenMMLab: takes some minutes')
        try:
            if not (uv := shutil.which('uv')):
                self.pip('--retries', '1', 'uv')
                uv = str(self.python.with_name('uv'))
            options = ['--python', self.python, '--no-deps', '-r', self.requirements]
            self.run(uv, 'pip', 'install', '-q', *options)
        except SetupError as error:
            say(f'{error}; trying pip')
            self.make_venv()  # uv may have left a package half installed
            self.pip('-r', self.requirements)

    def install_mmcv(self) -> None:
        """Install the wheel kept for this torch, or else the index's, or else compile one."""
        problem, torch, device = self.probe([])
        if problem:
            raise SetupError(problem)
        version = self.mmcv_txt.read_text().split('onedl-mmcv==')[1].split()[0]
        tag = 'cp{}{}'.format(*sys.version_info)
        kept = WHEELS / f'mmcv-{version}-torch{torch}-{tag}-{device}'
        if kept.exists():
            if self.works(kept):
                return
            shutil.rmtree(kept)
        WHEELS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=WHEELS, prefix='.build-') as folder:
            fetched, wheel = Path(folder, 'fetched'), Path(folder, 'wheel')
            if self.fetch_mmcv(fetched) and self.works(fetched):
                wheel = fetched
            else:
                self.compile_mmcv(wheel, kept.name, device)
                self.works(wheel)
            if not kept.exists():  # or another repository's set-up was faster
                wheel.rename(kept)

    def works(self, folder: Path) -> bool:
        """Install the wheel of mmcv in a folder, and say if it does not work with this torch."""
        self.pip('--no-index', '--force-reinstall', *folder.glob('*.whl'))
        problem, *_ = self.probe(['mmcv._ext'])
        if problem:
            say(f'{problem}: the wheel is not used')
        return not problem

    def fetch_mmcv(self, folder: Path) -> bool:
        """Fetch the wheel of mmcv that the user's index has, if it has one."""
        options = ['-q', '--no-deps', '--only-binary=onedl-mmcv', '-r', self.mmcv_txt, '-d', folder]
        try:
            self.run(self.python, '-m', 'pip', 'download', *options, quiet=True)
        except SetupError:
            return False
        return True

    def compile_mmcv(self, folder: Path, name: str, device: str) -> None:
        """Compile a wheel of mmcv for the installed torch into a folder."""
        check_compiler(device)
        say(f'compiling {name}: takes 2 to 10 minutes on two cores, once')
        memory = re.findall(r'MemAvailable: +(\d+) kB', Path('/proc/meminfo').read_text())[0]
        jobs = min(len(os.sched_getaffinity(0)), int(int(memory) / 1e6 / GB_PER_JOB)) or 1
        # No debug information, which takes a third of the time.
        env = {'MAX_JOBS': str(jobs), 'CPPFLAGS': '-g0', **self.env}
        # pip's own cache must stay out of it: its wheels are keyed by the sdist, not by torch.
        options = ['--no-build-isolation', '--no-cache-dir', '--no-deps', '--no-binary=onedl-mmcv']
        pip = [self.python, '-m', 'pip']
        source = ['-r', self.mmcv_txt]
        if device == 'cpu':  # with CUDA, other files take most of the time
            place = folder.with_name('source')
            self.run(*pip, 'download', '-q', *options, *source, '-d', place, env=env)
            (sdist,) = place.glob('*.tar.gz')
            shutil.unpack_archive(sdist, place)
            source = [sdist.with_name(sdist.name.removesuffix('.tar.gz'))]
            join_sources(source[0] / 'mmcv/ops/csrc/pytorch')
        self.run(*pip, 'wheel', *options, *source, '-w', folder, env=env)

    def pip(self, *options: object) -> None:
        """Install with pip, without what a package depends on."""
        self.run(self.python, '-m', 'pip', 'install', '-q', '--no-deps', *options)

    def run(self, *command: object, env: dict[str, str] | None = None, quiet: bool = False) -> None:
        """Run a command, which says itself what goes wrong."""
        # Its own session, to stop with it what it starts. It inherits the lock: if we are killed,
        # the next set-up waits for its end.
        options = {'start_new_session': True, 'pass_fds': [self.lock.fileno()]}
        pipes = {'stdin': subprocess.DEVNULL, 'stdout': sys.stderr}
        if quiet:
            pipes['stderr'] = subprocess.DEVNULL
        words = list(map(str, command))
        with subprocess.Popen(words, env=env or self.env, **pipes, **options) as process:
            try:
                process.wait()
            except KeyboardInterrupt:
                os.killpg(process.pid, signal.SIGTERM)
                raise
        if process.returncode:
            raise SetupError(f'failed, for the reason above: {" ".join(words)[:200]}')


def interpreter(dev: bool, upstream: bool) -> str:
    """The interpreter to use: this one if it has all packages, else that of the environment."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        raise SetupError(f'mmcontnet needs Python 3.10, 3.11 or 3.12, not {sys.version.split()[0]}')
    modules = UPSTREAM_MODULES if upstream else MODULES + DEV_MODULES * dev
    environment = Environment(Path(__file__).resolve().parent.parent, modules, upstream)
    ours = Path(sys.prefix) == environment.venv and environment.stamp.exists()
    if not upstream and not ours:
        problem, torch, _ = environment.probe(modules, sys.executable)
        if not problem:
            return sys.executable
        if torch:
            say(f'{sys.executable} is not used: {problem}')
    environment.ensure()
    return str(environment.python)


def main() -> None:
    """Print the interpreter, or one line on what is in the way."""
    parser = argparse.ArgumentParser(description='Make an environment; print its interpreter.')
    parser.add_argument('--dev', action='store_true', help='with what tests and lint need')
    parser.add_argument('--upstream', action='store_true', help="upstream's mmengine and mmcv-lite")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(interpreter(**vars(parser.parse_args())))
    except (SetupError, OSError) as error:
        sys.exit(f'setup_env: {error}')
    except KeyboardInterrupt:
        sys.exit('setup_env: interrupted; start again to go on')


if __name__ == '__main__':
    main()
