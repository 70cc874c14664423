"""What pip makes of the repository: wheels, sdists and editable installs."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ['setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'requirements', '.gitignore']
PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
BUILD = ['--no-deps', '--no-build-isolation', '--no-index']


def run(*command: object, cwd: Path) -> str:
    """Run a command that must succeed."""
    result = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def files_below(folder: str) -> set[str]:
    """The repository's files in `folder` that a package has to hold."""
    paths = (ROOT / folder).rglob('*')
    return {str(p.relative_to(ROOT)) for p in paths if p.is_file() and '__pycache__' not in p.parts}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is packed, under git, so that junk shows."""
    copy = tmp_path / 'checkout'
    copy.mkdir()
    ignore = shutil.ignore_patterns('__pycache__', '.mim', '*.egg-info')
    for source in (ROOT / name for name in [*SOURCES, 'mmcontnet', 'configs', 'tools']):
        if source.is_dir():
            shutil.copytree(source, copy / source.name, ignore=ignore)
        else:
            shutil.copy2(source, copy / source.name)
    run('git', 'init', '-q', cwd=copy)
    run('git', 'add', '.', cwd=copy)
    return copy


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a checkout or an sdist."""
    run(*PIP, 'wheel', *BUILD, '-w', folder, source, cwd=folder.parent)
    (wheel,) = folder.glob('mmcontnet-*.whl')
    return wheel


def test_wheel_holds_package_configs_tools_and_licence(checkout: Path, tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(build_wheel(checkout, tmp_path / 'wheel')).namelist())
    expected = {f'mmcontnet/.mim/{name}' for name in files_below('configs') | files_below('tools')}
    expected |= {name for name in files_below('mmcontnet') if not name.startswith('mmcontnet/.mim')}
    assert expected <= names
    assert {name for name in names if name.startswith('mmcontnet/')} <= expected
    assert any(name.endswith('LICENSE') for name in names)
    assert run('git', 'status', '--porcelain', '--untracked-files', cwd=checkout).count('??') == 0


def test_installed_wheel_imports_outside_the_repository(checkout: Path, tmp_path: Path) -> None:
    wheel = build_wheel(checkout, tmp_path / 'wheel')
    site = tmp_path / 'site'
    run(*PIP, 'install', '--no-deps', '--no-index', '--target', site, wheel, cwd=tmp_path)
    code = (
        f'import sys; sys.path.insert(0, {str(site)!r})\n'
        'import mmcontnet; print(mmcontnet.__file__, mmcontnet.__version__)'
    )
    printed = run(sys.executable, '-c', code, cwd=tmp_path).split()
    assert printed == [str(site / 'mmcontnet' / '__init__.py'), wheel.name.split('-')[1]]


def test_sdist_builds_the_same_wheel(checkout: Path, tmp_path: Path) -> None:
    code = f'import setuptools.build_meta as b; b.build_sdist({str(tmp_path)!r})'
    run(sys.executable, '-c', code, cwd=checkout)
    (sdist,) = tmp_path.glob('mmcontnet-*.tar.gz')
    with tarfile.open(sdist) as archive:
        assert any(name.endswith('/LICENSE') for name in archive.getnames())
    ours = zipfile.ZipFile(build_wheel(checkout, tmp_path / 'ours')).namelist()
    theirs = zipfile.ZipFile(build_wheel(sdist, tmp_path / 'theirs')).namelist()
    assert sorted(ours) == sorted(theirs)


def test_editable_install_links_configs_and_tools(checkout: Path, tmp_path: Path) -> None:
    run(*PIP, 'install', *BUILD, '--target', tmp_path / 'site', '-e', checkout, cwd=tmp_path)
    for name in ('configs', 'tools'):
        assert (checkout / 'mmcontnet' / '.mim' / name).resolve() == checkout / name
    assert run('git', 'status', '--porcelain', '--untracked-files', cwd=checkout).count('??') == 0
    # A wheel built afterwards holds copies, and the links are still there.
    names = zipfile.ZipFile(build_wheel(checkout, tmp_path / 'wheel')).namelist()
    assert 'mmcontnet/.mim/tools/setup_env.py' in names
    assert (checkout / 'mmcontnet' / '.mim' / 'tools').is_symlink()
