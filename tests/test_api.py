"""Backbones by name: mmcontnet.api."""

from pathlib import Path
from typing import Any

import pytest
import torch

import mmcontnet
from mmcontnet.engine import load_config
from mmcontnet.errors import UserError


@pytest.mark.parametrize('name', mmcontnet.list_backbones())
def test_a_backbone_of_a_name_is_that_of_the_config_of_this_name(name: str) -> None:
    wanted = load_config(name).model.backbone
    with torch.device('meta'):
        backbone = mmcontnet.create_backbone(name)
        other = getattr(mmcontnet, wanted.pop('type'))(**wanted)
    assert type(backbone) is type(other)
    shapes = [[(k, v.shape) for k, v in b.state_dict().items()] for b in (backbone, other)]
    assert shapes[0] == shapes[1]


def test_names_are_filtered_by_their_start_and_by_wildcards() -> None:
    assert mmcontnet.list_backbones('cont') == ['cont_ti', 'cont_s', 'cont_m', 'cont_b']
    assert mmcontnet.list_backbones('*acmix_s') == ['pvt_acmix_s', 'swin_acmix_s']
    assert mmcontnet.list_backbones('resnet50') == []


def test_further_arguments_are_those_of_the_class() -> None:
    backbone = mmcontnet.create_backbone('cont_ti', downsample='pool', out_indices=(1, 2))
    assert (backbone.out_channels, backbone.out_strides) == ((192, 384), (8, 16))
    with pytest.raises(ValueError, match='downsample must be one of'):
        mmcontnet.create_backbone('cont_ti', downsample='none')
    with pytest.raises(TypeError, match='pool'):
        mmcontnet.create_backbone('cont_ti', pool=True)


@pytest.mark.parametrize('prefix', ['backbone.', ''])
def test_a_checkpoint_of_a_model_or_of_the_backbone_alone_is_loaded(
    prefix: str, tmp_path: Path
) -> None:
    weights = mmcontnet.create_backbone('cont_ti').state_dict()
    content: Any = {f'{prefix}{key}': value for key, value in weights.items()}
    content = {'state_dict': {**content, 'head.fc.bias': torch.zeros(10)}} if prefix else content
    torch.save(content, tmp_path / 'weights.pth')
    loaded = mmcontnet.create_backbone('cont_ti', checkpoint=tmp_path / 'weights.pth').state_dict()
    assert weights.keys() == loaded.keys()
    assert all(torch.equal(weights[key], loaded[key]) for key in weights)


def test_what_cannot_be_created_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no backbone 'cont-m'; did you mean cont_m or "):
        mmcontnet.create_backbone('cont-m')
    with pytest.raises(UserError, match='choose from .*cont_m.*swin_acmix_s'):
        mmcontnet.create_backbone('xyz')
    file = tmp_path / 'weights.pth'
    torch.save(mmcontnet.create_backbone('cont_ti').state_dict(), file)
    with pytest.raises(UserError, match='weights.pth.* does not fit: .* tensors of ConTNet are '):
        mmcontnet.create_backbone('cont_s', checkpoint=file)
    with pytest.raises(UserError, match='none.pth.* not found'):
        mmcontnet.create_backbone('cont_s', checkpoint='none.pth')
