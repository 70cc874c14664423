"""ACmix's rates by depth, from checkpoints as people have them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmcontnet.analysis.path_rates import read_path_rates
from mmcontnet.backbones import ResNetACmix
from mmcontnet.errors import UserError

from ..families import RESNET_ACMIX
from ..inprocess import run_tool
from ..parity import author_state_dict, record


def make_backbone(combine: str = 'rates') -> ResNetACmix:
    torch.manual_seed(0)
    backbone = ResNetACmix(RESNET_ACMIX, combine=combine)
    for name, parameter in backbone.named_parameters():
        if 'rate_' in name:
            torch.nn.init.uniform_(parameter, 0.1, 1)
    return backbone


def test_rates_come_in_the_order_of_the_layers(tmp_path: Path) -> None:
    backbone = make_backbone()
    state = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    torch.save({'state_dict': state, 'meta': {}}, tmp_path / 'ours.pth')
    rates = read_path_rates(str(tmp_path / 'ours.pth'))
    sums = [block.layer[0].sum for stage in backbone.stages for block in stage]
    assert rates.layers[0] == 'backbone.stages.0.0.layer.0.sum'
    assert rates.attention == [float(s.rate_attention.detach()) for s in sums]
    assert rates.convolution == [float(s.rate_convolution.detach()) for s in sums]


@pytest.mark.parametrize('entry', ['state_dict', 'model', None])
@pytest.mark.parametrize(
    ('name', 'layers', 'second'),
    [
        ('resnet-acmix-26', 1 + 2 + 4 + 1, 'layer2.0.conv2'),
        ('swin-acmix-t', 2 + 2 + 6 + 2, 'layers.0.blocks.1.attn'),
    ],
)
def test_the_authors_files_are_known(
    name: str, layers: int, second: str, entry: str | None, tmp_path: Path
) -> None:
    state = author_state_dict({k: v for k, v in record(name)['state_dict'].items() if 'rate' in k})
    torch.save({entry: state, 'epoch': 1} if entry else state, tmp_path / 'author.pth')
    rates = read_path_rates(str(tmp_path / 'author.pth'))
    assert len(rates.layers) == layers
    assert rates.layers[1] == second
    assert rates.attention[1] == float(state[f'{second}.rate1'])
    assert rates.convolution[1] == float(state[f'{second}.rate2'])


def test_the_command_line_draws_a_line_for_each_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(make_backbone().state_dict(), 'a.pth')
    torch.save(make_backbone().state_dict(), 'b.pth')
    tool = run_tool(monkeypatch, 'path_rates.py', 'a.pth', 'b.pth', '--json', 'rates.json')
    assert tool is None
    assert '| stages.3.0.layer.0.sum |' in capsys.readouterr().out
    assert len(json.loads(Path('rates.json').read_text())['b.pth']['attention']) == 5
    assert Image.open('path_rates.png').size == (1320, 408)


@pytest.mark.parametrize(
    ('combine', 'message'),
    [('complement', 'rates of attention alone'), ('sum', 'holds no rates of ACmix')],
)
def test_files_without_both_rates_are_named(tmp_path: Path, combine: str, message: str) -> None:
    torch.save(make_backbone(combine).state_dict(), tmp_path / 'a.pth')
    with pytest.raises(UserError, match=message):
        read_path_rates(str(tmp_path / 'a.pth'))
