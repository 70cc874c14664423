"""All seven variants through the key map; test_parity.py has three of them in numbers."""

import re

import pytest
import torch

from mmcontnet.backbones import CoTNet
from mmcontnet.backbones.cotnet import ARCHS
from mmcontnet.errors import CheckpointError
from mmcontnet.weights import convert_state_dict
from tests.parity import record

AUTHORS_NAMES = (
    (r'^stem\.norms\.2\.', 'bn1.'),
    (r'^stem\.convs\.(\d)', lambda m: f'conv1.{3 * int(m[1])}'),
    (r'^stem\.norms\.(\d)', lambda m: f'conv1.{3 * int(m[1]) + 1}'),
    (r'^stages\.(\d)', lambda m: f'layer{int(m[1]) + 1}'),
    (r'\.norm([13])\.', r'.bn\1.'),
    (r'\.shortcut\.0\.', '.downsample.1.'),
    (r'\.shortcut\.1\.', '.downsample.2.'),
    (r'\.layer\.conv\.0\.', '.conv2.conv.'),
    (r'\.layer\.conv\.1\.', '.conv2.bn0.'),
    (r'\.layer\.attention\.0\.', '.conv2.fc1.'),
    (r'\.layer\.attention\.1\.', '.conv2.bn1.'),
    (r'\.layer\.attention\.3\.', '.conv2.fc2.'),
    (r'\.layer\.key\.', '.conv2.key_embed.'),
    (r'\.layer\.value\.', '.conv2.conv1x1.'),
    (r'\.layer\.norm\.', '.conv2.bn.'),
    (r'\.layer\.fuse\.', '.conv2.se.'),
    (r'\.layer\.', '.conv2.'),
)


def as_authors(arch: str) -> dict[str, torch.Tensor]:
    """Tensors without memory under the authors' names, which most variants have no record of."""
    with torch.device('meta'):
        state_dict = CoTNet(arch).state_dict()
        author = {'fc.weight': torch.empty(1000, 2048), 'fc.bias': torch.empty(1000)}
    for key, value in state_dict.items():
        for pattern, replacement in AUTHORS_NAMES:
            key = re.sub(pattern, replacement, key)
        if not ARCHS[arch]['deep']:  # where the stem is one convolution, and no shortcut pools
            key = re.sub(r'^conv1\.0\.', 'conv1.', key)
            key = re.sub(r'^conv1\.1\.', 'bn1.', key)
            key = re.sub(r'(downsample)\.([12])', lambda m: f'{m[1]}.{int(m[2]) - 1}', key)
        author[key] = value
    return author


@pytest.mark.parametrize(
    ('arch', 'name'),
    [('50', 'cotnet-50'), ('next50', 'cotnext-50'), ('se-d50', 'se-cotnetd-50')],
)
def test_names_made_up_here_are_those_of_the_records(arch: str, name: str) -> None:
    made = {key: list(value.shape) for key, value in as_authors(arch).items()}
    assert made == record(name)['state_dict']


@pytest.mark.parametrize('arch', ARCHS)
def test_every_arch_is_recognised_and_fits(arch: str) -> None:
    author = as_authors(arch)
    if ARCHS[arch]['blur']:  # fixed, and therefore no weight of ours
        author['layer1.0.aa.filt'] = torch.empty(256, 1, 3, 3)
    # The converter compares every name and shape with the network of this arch.
    assert convert_state_dict(author).backbone == dict(type='CoTNet', arch=arch)


def test_an_arch_that_is_none_of_the_seven_is_named() -> None:
    author = as_authors('50')
    author['layer3.6.conv1.weight'] = torch.empty(256, 1024, 1, 1)
    with pytest.raises(CheckpointError, match=r'unknown arch: depths \(3, 4, 7, 3\), width 64'):
        convert_state_dict(author)
