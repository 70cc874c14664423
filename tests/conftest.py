"""Settings of all tests."""

import functools
import os
from pathlib import Path

import mmengine.config.utils
import pytest
import torch

# Command lines that tests start in other directories find the package as the tests do.
os.environ['PYTHONPATH'] = os.pathsep.join(
    filter(None, [str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH')])
)

# Convolutions of a GPU are compared as exact as they can be; PyTorch's default rounds to TF32.
torch.backends.cudnn.allow_tf32 = False
# mmengine reads a package's hundred metafiles for each config of it that a config inherits from.
mmengine.config.utils.load = functools.cache(mmengine.config.utils.load)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first, so that all processes end together; skip GPU tests without one."""
    items.sort(key=lambda item: item.get_closest_marker('slow') is None)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker('gpu'):
                item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))
