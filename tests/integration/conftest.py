"""The small real data sets, and what processes have from the start."""

import multiprocessing
import os
from pathlib import Path

import pytest

from ..preparation import run_for_real

# What they import is imported once.
multiprocessing.get_context('forkserver').set_forkserver_preload(
    ['mmdet.apis', 'mmseg.apis', 'mmpretrain.apis', 'tests.conftest', 'tests.integration.processes']
)


@pytest.fixture(scope='session')
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real data sets, prepared once, however many processes run the tests."""
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent  # what the processes of one run share
    for name in ('tree_crowns', 'nuclei', 'digits'):
        run_for_real(f'prepare_{name}', folder / 'real_data' / name)
    return folder / 'real_data'


@pytest.fixture
def folder(real_data: Path, tmp_path: Path) -> Path:
    """Where commands run: the data are in data/, under the names that configs look for."""
    (tmp_path / 'data').mkdir()
    for name in ('tree_crowns', 'nuclei', 'digits'):
        (tmp_path / 'data' / name).symlink_to(real_data / name)
    (tmp_path / 'data/cityscapes').symlink_to(real_data / 'nuclei/cityscapes')
    return tmp_path
