"""All variants and image sizes through the key map; test_parity.py has two of them in numbers."""

import re

import pytest
import torch

from mmcontnet.backbones import CMT
from mmcontnet.errors import CheckpointError
from mmcontnet.necks import CMTNeck
from mmcontnet.weights import convert_state_dict
from tests.parity import record

AUTHORS_NAMES = (
    (r'^stages\.(\d)', lambda m: f'stages.{"abcd"[int(m[1])]}'),
    (r'^stem\.(conv|norm)s\.(\d)', lambda m: f'stem_{m[1]}{int(m[2]) + 1}'),
    (r'^stages\.(\w)\.position_bias\.table$', r'relative_pos_\1'),
    (r'^stages\.(\w)\.aggregation\.conv', r'patch_embed_\1.proj'),
    (r'^stages\.(\w)\.aggregation\.norm', r'patch_embed_\1.norm'),
    (r'^stages\.(\w)\.blocks\.', r'blocks_\1.'),
    (r'\.attention\.', '.attn.'),
    (r'\.reduce\.', '.sr.'),
    (r'\.local\.', '.proj.'),
    (r'\.ffn\.expand\.', '.mlp.conv1.0.'),
    (r'\.ffn\.expand_norm\.', '.mlp.conv1.2.'),
    (r'\.ffn\.depthwise\.', '.mlp.proj.'),
    (r'\.ffn\.depthwise_norm\.', '.mlp.proj_bn.'),
    (r'\.ffn\.project\.', '.mlp.conv2.0.'),
    (r'\.ffn\.project_norm\.', '.mlp.conv2.1.'),
)


def as_authors(arch: str, img_size: int | None = None) -> dict[str, torch.Tensor]:
    """Tensors without memory under the authors' names, which most variants have no record of."""
    with torch.device('meta'):
        backbone = CMT(arch, img_size=img_size)
        neck = CMTNeck(backbone.out_channels[-1])
        author = {'head.weight': torch.empty(1000, 1280), 'head.bias': torch.empty(1000)}
    author.update({f'_fc.{key}': value for key, value in neck.conv.state_dict().items()})
    author.update({f'_bn.{key}': value for key, value in neck.norm.state_dict().items()})
    for key, value in backbone.state_dict().items():
        for pattern, replacement in AUTHORS_NAMES:
            key = re.sub(pattern, replacement, key)
        author[key] = value
    return author


@pytest.mark.parametrize(('arch', 'name'), [('ti', 'cmt-ti_160'), ('s', 'cmt-s_224')])
def test_names_made_up_here_are_those_of_the_records(arch: str, name: str) -> None:
    made = {key: list(value.shape) for key, value in as_authors(arch).items()}
    assert made == record(name)['state_dict']


@pytest.mark.parametrize(
    ('arch', 'img_size'),
    [('ti', None), ('xs', None), ('s', None), ('b', None), ('l', None), ('s', 256), ('b', 224)],
)
def test_arch_and_image_size_are_recognised_and_fit(arch: str, img_size: int | None) -> None:
    author = as_authors(arch, img_size)
    # The converter compares every name and shape with the network of this arch and size.
    converted = convert_state_dict(author)
    assert converted.backbone == {
        **dict(type='CMT', arch=arch),
        **({} if img_size is None else dict(img_size=img_size)),
    }


@pytest.mark.parametrize(
    ('name', 'shape', 'message'),
    [
        ('a', (1, 3025, 49), r'relative_pos_a has shape \(1, 3025, 49\) instead of \(1, N, N / 64'),
        ('a', (1, 3025, 36), 'relative_pos_a has shape'),
        ('a', (1, 3136, 48), 'relative_pos_a has shape'),
        ('a', (3136, 49), 'relative_pos_a has shape'),
        ('b', (2, 784, 48), r'stages\.1\.position_bias\.table: \(2, 784, 48\) instead of'),
    ],
)
def test_a_truncated_table_is_named(name: str, shape: tuple[int, ...], message: str) -> None:
    author = {**as_authors('s'), f'relative_pos_{name}': torch.empty(shape, device='meta')}
    with pytest.raises(CheckpointError, match=message):
        convert_state_dict(author)


def test_an_arch_that_is_none_of_the_five_is_named() -> None:
    author = {**as_authors('s'), 'blocks_c.16.norm1.weight': torch.empty(256)}
    with pytest.raises(CheckpointError, match=r'unknown arch: depths \(3, 3, 17, 3\), width 64'):
        convert_state_dict(author)
