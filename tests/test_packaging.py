"""What pip makes of the repository: wheels, sdists and editable installs."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
import yaml

from mmcontnet import __version__
from mmcontnet.analysis.results import read_results

from .integration.data import make_class_folders

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ['setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE', 'CHANGELOG.md']
SOURCES += ['CITATION.cff', 'model-index.yml', 'requirements', '.gitignore']
PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
BUILD = ['--no-deps', '--no-build-isolation', '--no-index']


def run(*command: object, cwd: Path, **env: str) -> str:
    """Run a command that must succeed, with these environment variables besides."""
    pipes = dict(capture_output=True, text=True, env={**os.environ, **env})
    result = subprocess.run([str(part) for part in command], cwd=cwd, **pipes)
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


def metadata_of(wheel: Path) -> Message:
    """What an index shows of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))
        return message_from_bytes(archive.read(name))


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a checkout or an sdist."""
    run(*PIP, 'wheel', *BUILD, '-w', folder, source, cwd=folder.parent)
    (wheel,) = folder.glob('mmcontnet-*.whl')
    return wheel


def test_wheel_and_sdist_hold_package_configs_metafiles_tools_and_licence(
    checkout: Path, tmp_path: Path
) -> None:
    wheel = build_wheel(checkout, tmp_path / 'wheel')
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = metadata_of(wheel)
    assert metadata['Description-Content-Type'] == 'text/markdown'
    assert 'Typing :: Typed' in metadata.get_all('Classifier') and 'mmcontnet/py.typed' in names
    urls = [line.partition(', ')[2] for line in metadata.get_all('Project-URL')]
    assert set(urls) >= {family['url'] for family in read_results()['families'].values()}
    mim = files_below('configs') | files_below('tools') | {'model-index.yml'}
    for name in ('make_tables.py', 'plot_throughput.py'):  # write pages that are not in the package
        mim.remove(f'tools/{name}')
    expected = {f'mmcontnet/.mim/{name}' for name in mim}
    expected |= {name for name in files_below('mmcontnet') if not name.startswith('mmcontnet/.mim')}
    assert expected <= names
    assert {name for name in names if name.startswith('mmcontnet/')} <= expected
    assert any(name.endswith('LICENSE') for name in names)
    assert run('git', 'status', '--porcelain', '--untracked-files', cwd=checkout).count('??') == 0
    code = f'import setuptools.build_meta as b; b.build_sdist({str(tmp_path)!r})'
    run(sys.executable, '-c', code, cwd=checkout)
    (sdist,) = tmp_path.glob('mmcontnet-*.tar.gz')
    assert set(zipfile.ZipFile(build_wheel(sdist, tmp_path / 'again')).namelist()) == names


# What a user does with the installed package, each config found as `mim` finds it.
USE = """
import json
import sys
from pathlib import Path

import numpy as np
from mmengine.utils import get_installed_path

mim = Path(get_installed_path('mmcontnet'), '.mim')
configs = mim / 'configs'
image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
result = {}

import mmcontnet
from mmpretrain import ImageClassificationInferencer, get_model, list_models

mmcontnet.register_with_mmpretrain()
mmcontnet.register_with_mmpretrain()
result['names'] = list_models('cont_*')
result['not classifiers'] = list_models('retinanet*')
result['model'] = type(get_model('cont_ti_8xb64_in1k').backbone).__name__
for name in (str(configs / 'cont_ti_8xb64_in1k.py'), 'cont_ti_8xb64_in1k'):
    classifier = ImageClassificationInferencer(name, pretrained=False, device='cpu')
    result.setdefault('classes', []).append(len(classifier(image)[0]['pred_scores']))

from mmdet.apis import DetInferencer

config = str(configs / 'retinanet_cont_ti_fpn_1000i_tree_crowns.py')
detector = DetInferencer(config, device='cpu', show_progress=False)
result['boxes'] = len(detector(image)['predictions'][0]['bboxes'])

from mmseg.apis import MMSegInferencer

segmenter = MMSegInferencer(str(configs / 'pspnet_cont_ti_100i_nuclei.py'), device='cpu')
result['mask'] = segmenter(image)['predictions'].shape

from mmcontnet.engine import load_config

result['path'] = sys.path
result['by_name'] = load_config('cmt_s').filename
result['found'] = [str(mim.parent), str(Path(mmcontnet.__file__).parent)]
result['version'] = mmcontnet.__version__
Path('result.json').write_text(json.dumps(result))
"""


def make_environment(folder: Path) -> tuple[Path, Path]:
    """Make a virtual environment with what is installed in this one, and without the repository.

    Returns:
        Its Python and its site-packages.
    """
    venv.create(folder)
    (packages,) = folder.glob('lib/python*/site-packages')
    # Not system-site-packages, which would be those that this environment was made from. Files
    # named *.pth in there, such as an editable install's, are not read.
    (packages / 'others.pth').write_text('\n'.join(site.getsitepackages()))
    return folder / 'bin/python', packages


@pytest.mark.slow
def test_installed_wheel_serves_the_inferencers_outside_the_repository(
    checkout: Path, tmp_path: Path
) -> None:
    wheel = build_wheel(checkout, tmp_path / 'wheel')
    shutil.rmtree(checkout)
    python, packages = make_environment(tmp_path / 'environment')
    outside = tmp_path / 'outside'
    outside.mkdir()
    # With its dependencies, which are there.
    run(*PIP, '--python', python, 'install', '--no-index', wheel, cwd=tmp_path, PYTHONPATH='')
    run(python, '-c', USE, cwd=outside, PYTHONPATH='')
    make_class_folders(outside / 'data/digits')
    small = ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=4', 'model.head.num_classes=2']
    small += ['data_preprocessor.num_classes=2', 'default_hooks.logger.interval=1']
    train = [packages / 'mmcontnet/.mim/tools/train.py', 'cont_ti_3e_digits', '--work-dir', 'run']
    run(python, *train, '--cfg-options', *small, cwd=outside, PYTHONPATH='')
    assert (outside / 'run/epoch_1.pth').exists()
    result = json.loads((outside / 'result.json').read_text())
    assert str(ROOT) not in result['path']
    assert result['found'] == [str(packages / 'mmcontnet')] * 2
    assert result['by_name'] == str(packages / 'mmcontnet/.mim/configs/cmt_s_8xb128_in1k.py')
    assert result['version'] == __version__ == wheel.name.split('-')[1]
    assert 'cont_ti_8xb64_in1k' in result['names'] and result['not classifiers'] == []
    assert result['model'] == 'ConTNet'
    assert result['classes'] == [1000, 1000]
    assert result['boxes'] > 0
    assert result['mask'] == [96, 128]


def test_editable_install_links_configs_and_tools(checkout: Path, tmp_path: Path) -> None:
    run(*PIP, 'install', *BUILD, '--target', tmp_path / 'site', '-e', checkout, cwd=tmp_path)
    for name in ('configs', 'model-index.yml', 'tools'):
        assert (checkout / 'mmcontnet' / '.mim' / name).resolve() == checkout / name
    assert run('git', 'status', '--porcelain', '--untracked-files', cwd=checkout).count('??') == 0
    # A wheel built afterwards holds copies, and the links are still there.
    names = zipfile.ZipFile(build_wheel(checkout, tmp_path / 'wheel')).namelist()
    assert 'mmcontnet/.mim/tools/setup_env.py' in names
    assert (checkout / 'mmcontnet' / '.mim' / 'tools').is_symlink()


def test_version_is_written_in_one_place_and_the_changelog_knows_it() -> None:
    written = re.compile(rf'(?<![\d.]){re.escape(__version__)}(?![\d.])')
    paths = [ROOT / name for name in ('setup.py', 'pyproject.toml', 'CITATION.cff', 'README.md')]
    paths += [*(ROOT / 'mmcontnet').rglob('*.py'), *(ROOT / 'tools').glob('*')]
    found = [path.name for path in paths if path.is_file() and written.search(path.read_text())]
    assert found == ['version.py']
    # Above the releases, the newest of which is this version, stands what is not released yet.
    headings = re.findall(r'^## \[(.+?)\]', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert headings[0] == 'Unreleased' and headings[1:2] in ([], [__version__])


def test_citation_names_the_software_and_the_papers_of_its_families() -> None:
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= set(citation)
    assert citation['license'] == 'Apache-2.0'
    assert {paper['url'] for paper in citation['references']} == {
        family['url'] for family in read_results()['families'].values()
    }
