"""Both variants and other windows through the key map; test_parity.py has T in numbers."""

import re

import pytest
import torch

from mmcontnet.backbones import SwinACmix
from mmcontnet.errors import CheckpointError
from mmcontnet.weights import convert_state_dict
from tests.parity import record

AUTHORS_NAMES = (
    (r'^stem\.conv\.', 'patch_embed.proj.'),
    (r'^stem\.', 'patch_embed.'),
    (r'^stages\.3\.norm\.', 'norm.'),
    (r'^stages\.(\d)\.merging\.', lambda m: f'layers.{int(m[1]) - 1}.downsample.'),
    (r'^stages\.', 'layers.'),
    (r'\.(fc[12])\.', r'.mlp.\1.'),
    (r'\.position_bias\.', '.'),
    (r'\.sum\.rate_attention$', '.rate1'),
    (r'\.sum\.rate_convolution$', '.rate2'),
    (r'\.convolution\.mix\.', '.fc.'),
    (r'\.convolution\.shift\.', '.dep_conv.'),
    (r'\.acmix\.', '.attn.'),
)


def as_authors(arch: str, window_size: int = 7) -> dict[str, torch.Tensor]:
    """Tensors without memory under the authors' names."""
    with torch.device('meta'):
        state_dict = SwinACmix(arch, window_size=window_size).state_dict()
        author = {'head.weight': torch.empty(1000, 768), 'head.bias': torch.empty(1000)}
        index = torch.empty(window_size**2, window_size**2)
    for key, value in state_dict.items():
        for pattern, replacement in AUTHORS_NAMES:
            key = re.sub(pattern, replacement, key)
        author[key] = value[..., None, None] if key.endswith('attn.fc.weight') else value
        if key.endswith('bias_table'):
            author[key.replace('bias_table', 'index')] = index
    for stage, side in enumerate((56, 28, 14)):
        windows = (side // window_size) ** 2
        for block in range(1, 18 if (arch, stage) == ('s', 2) else 6 if stage == 2 else 2, 2):
            author[f'layers.{stage}.blocks.{block}.attn_mask'] = index.expand(windows, -1, -1)
    return author


def test_names_made_up_here_are_those_of_the_record() -> None:
    made = {key: list(value.shape) for key, value in as_authors('t').items()}
    assert made == record('swin-acmix-t')['state_dict']


@pytest.mark.parametrize('window_size', [7, 14])
@pytest.mark.parametrize('arch', ['t', 's'])
def test_arch_and_windows_are_recognised(arch: str, window_size: int) -> None:
    # The converter compares every name and shape with the network of this arch.
    converted = convert_state_dict(as_authors(arch, window_size))
    windows = {} if window_size == 7 else dict(window_size=14)
    assert converted.backbone == dict(type='SwinACmix', arch=arch, **windows)


def test_an_arch_that_is_neither_is_named() -> None:
    author = as_authors('t')
    author['layers.2.blocks.6.attn.rate1'] = torch.empty(1)
    with pytest.raises(CheckpointError, match=r'unknown arch: depths \(2, 2, 7, 2\), width 96'):
        convert_state_dict(author)


def test_swin_without_acmix_is_no_checkpoint_of_a_known_family() -> None:
    author = {key: v for key, v in as_authors('t').items() if '.dep_conv.' not in key}
    with pytest.raises(CheckpointError, match='unknown checkpoint'):
        convert_state_dict(author)
