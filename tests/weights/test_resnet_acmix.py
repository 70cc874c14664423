"""All variants and other heads through the key map; test_parity.py has -26 in numbers."""

import re
from typing import Any

import pytest
import torch

from mmcontnet.backbones import ResNetACmix
from mmcontnet.errors import CheckpointError
from mmcontnet.weights import convert_state_dict
from tests.parity import record

AUTHORS_NAMES = (
    (r'^stem\.convs\.0\.', 'conv1.'),
    (r'^stem\.norms\.0\.', 'bn1.'),
    (r'^stages\.(\d)\.', lambda match: f'layer{int(match[1]) + 1}.'),
    (r'\.norm([13])\.', r'.bn\1.'),
    (r'\.shortcut\.', '.downsample.'),
    (r'\.layer\.1\.', '.bn2.'),
    (r'\.layer\.0\.', '.conv2.'),
    (r'\.sum\.rate_attention$', '.rate1'),
    (r'\.sum\.rate_convolution$', '.rate2'),
    (r'\.position\.', '.conv_p.'),
    (r'\.convolution\.mix\.', '.fc.'),
    (r'\.convolution\.shift\.', '.dep_conv.'),
)


def as_authors(**kwargs: Any) -> dict[str, torch.Tensor]:
    """Tensors without memory under the authors' names."""
    with torch.device('meta'):
        state_dict = ResNetACmix(**kwargs).state_dict()
        author = {'fc.weight': torch.empty(1000, 2048), 'fc.bias': torch.empty(1000)}
    for key, value in state_dict.items():
        for pattern, replacement in AUTHORS_NAMES:
            key = re.sub(pattern, replacement, key)
        if '.qkv.' in key:
            for i, part in enumerate(value.chunk(3), 1):
                author[key.replace('.qkv.', f'.conv{i}.')] = part
        else:
            author[key] = value[..., None, None] if key.endswith('.fc.weight') else value
    return author


def test_names_made_up_here_are_those_of_the_record() -> None:
    made = {key: list(value.shape) for key, value in as_authors(arch='26').items()}
    assert made == record('resnet-acmix-26')['state_dict']


@pytest.mark.parametrize('heads', [{}, dict(num_heads=8)], ids=str)
@pytest.mark.parametrize('arch', ['26', '38', '50'])
def test_arch_and_heads_are_recognised(arch: str, heads: dict[str, int]) -> None:
    # The converter compares every name and shape with the network of this arch.
    converted = convert_state_dict(as_authors(arch=arch, **heads))
    assert converted.backbone == dict(type='ResNetACmix', arch=arch, **heads)


def test_projections_are_joined_in_the_order_of_queries_keys_and_values() -> None:
    author = as_authors(arch='26')
    parts = [torch.full((64,), float(i)) for i in range(3)]
    for i, part in enumerate(parts, 1):
        author[f'layer1.0.conv2.conv{i}.bias'] = part
    # Whatever their order in the file.
    converted = convert_state_dict(dict(reversed(author.items())))
    joined = converted.state_dict['backbone.stages.0.0.layer.0.qkv.bias']
    torch.testing.assert_close(joined, torch.cat(parts))


@pytest.mark.parametrize(
    ('key', 'shape', 'message'),
    [
        ('layer1.0.conv2.conv2.weight', None, r'qkv\.weight: \(128, 64, 1, 1\) instead of \(192,'),
        ('layer1.0.conv2.conv2.weight', (64, 32, 1, 1), 'conv2.conv3.weight cannot be converted: '),
        ('layer4.1.bn1.weight', (512,), r'unknown arch: depths \(1, 2, 4, 2\), width 64'),
        ('layer2.0.conv2.rate2', None, 'rate_convolution: nothing instead of'),
    ],
)
def test_what_is_no_network_of_the_authors_is_named(
    key: str, shape: tuple[int, ...] | None, message: str
) -> None:
    author = as_authors(arch='26')
    author.pop(key, None)
    if shape is not None:
        author[key] = torch.empty(shape, device='meta')
    with pytest.raises(CheckpointError, match=message):
        convert_state_dict(author)
