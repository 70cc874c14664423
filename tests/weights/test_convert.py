import argparse
import re
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from mmcontnet.backbones import ConTNet
from mmcontnet.errors import CheckpointError
from mmcontnet.weights import convert_checkpoint, convert_state_dict
from tests.inprocess import run_tool
from tests.parity import author_state_dict, record


@pytest.fixture(scope='module')
def author() -> dict[str, torch.Tensor]:
    return author_state_dict(record('cont-s')['state_dict'])


def saved(names: tuple[str, ...], path: Path) -> None:
    """Save what training scripts do: zeros as weights, ones as their average, and more."""
    shapes = record('cont-s')['state_dict']
    # Of one element in memory each: nothing here takes time.
    zeros, ones = (
        {k: x.expand(s) for k, s in shapes.items()} for x in (torch.zeros(()), torch.ones(()))
    )
    content: dict = {}
    for name in names:
        weights = ones if name.endswith('ema') else zeros
        content[name] = {f'module.{key}': value for key, value in weights.items()}
    if names:
        optimizer = {
            'state': {0: {'momentum_buffer': torch.ones(2)}},
            'param_groups': [{'lr': 0.1}],
        }
        args = argparse.Namespace(lr=0.1, data='/imagenet')
        content.update(arch='net', epoch=3, args=args, optimizer=optimizer, metric=76.5)
    torch.save(content or zeros, path)


@pytest.mark.parametrize(
    ('names', 'option', 'taken'),
    [
        ((), [], None),
        ((), ['--no-ema'], None),
        (('model',), [], 'model'),
        (('state_dict',), ['--no-ema'], 'state_dict'),
        (('state_dict', 'state_dict_ema'), [], 'state_dict_ema'),
        (('state_dict', 'state_dict_ema'), ['--ema'], 'state_dict_ema'),
        (('state_dict', 'state_dict_ema'), ['--no-ema'], 'state_dict'),
        (('model', 'model_ema'), [], 'model_ema'),
        (('state_dict_ema',), [], 'state_dict_ema'),
    ],
    ids=str,
)
def test_wrapped_or_not_the_average_or_what_is_asked_for_is_converted_and_named(
    names: tuple[str, ...],
    option: list[str],
    taken: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    source, target = tmp_path / 'author.pth', tmp_path / 'ours.pth'
    saved(names, source)
    assert run_tool(monkeypatch, 'convert_checkpoint.py', source, target, *option) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f"'arch': 's'}}, from {taken!r}" if taken else "'arch': 's'}")
    state_dict = torch.load(target, weights_only=True)['state_dict']
    expected = 1.0 if str(taken).endswith('ema') else 0.0
    assert all((tensor == expected).all() for tensor in state_dict.values())


@pytest.mark.parametrize(
    ('names', 'option', 'message'),
    [
        ((), '--ema', r'no EMA \(state_dict_ema or model_ema\)$'),
        (('model',), '--ema', r'no EMA \(.*\), only model$'),
        (
            ('state_dict_ema',),
            '--no-ema',
            r'no plain weights \(state_dict or model\), only state_dict_ema$',
        ),
    ],
    ids=str,
)
def test_weights_that_are_asked_for_and_missing_are_named(
    names: tuple[str, ...],
    option: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = tmp_path / 'author.pth', tmp_path / 'ours.pth'
    saved(names, source)
    line = run_tool(monkeypatch, 'convert_checkpoint.py', source, target, option)
    assert re.search(f'^convert_checkpoint.py: error: .*author.pth.* holds {message}', str(line))
    assert not target.exists()


def test_a_converted_file_initialises_the_backbone_of_a_detector(
    author: dict, tmp_path: Path
) -> None:
    torch.save(author, tmp_path / 'author.pth')
    converted = convert_checkpoint(tmp_path / 'author.pth', tmp_path / 'ours.pth').state_dict
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'ours.pth'), prefix='backbone.')
    config = dict(type='ConTNet', arch='s', downsample='pool', init_cfg=init_cfg)
    detector = BaseModule()
    detector.backbone = MODELS.build(config)
    detector.init_weights()
    for key, value in detector.state_dict().items():
        assert torch.equal(value, converted[key]), key


AUTHORS_NAMES = (
    (r'^stem\.conv\.', 'layer0.conv.conv.'),
    (r'^stages\.(\d)\.(\d+)\.', lambda m: f'layer{int(m[1]) + 1}.ConTBlock{m[2]}.'),
    (r'(ConTBlock\d+)\.norm\.', r'\1.bn.'),
    (r'(ConTBlock\d+)\.conv\.', r'\1.out_conv.conv.'),
    (r'(ConTBlock\d+)\.shortcut\.', r'\1.downsample.conv.'),
    (r'encoders\.(\d)\.', lambda m: f'ste{int(m[1]) + 1}.'),
    (r'\.(qkv|proj)\.', r'.attn.\1.'),
    (r'\.(fc[12])\.', r'.mlp.\1.'),
    (r'\.position_bias\.', '.attn.'),
    (r'position\.row', 'pe.0'),
    (r'position\.column', 'pe.1'),
)


def as_authors(backbone: ConTNet, avg_down: bool = False) -> dict[str, torch.Tensor]:
    """Name and shape our tensors as the records show, for networks that have no record."""
    author = {}
    for key, value in backbone.state_dict().items():
        for pattern, replacement in AUTHORS_NAMES:
            key = re.sub(pattern, replacement, key)
        if avg_down:  # the pool is a module before the convolution, where there is a stride
            key = re.sub(r'(layer[123]\.\w+\.downsample\.conv)\.', r'\1.conv.', key)
        if '.pe.' in key:
            value = value[None, :, None] if key.endswith('0') else value[None, None]
        if key.endswith('relative_position_bias_table'):
            author[key.replace('bias_table', 'index')] = torch.zeros(49, 49, dtype=torch.long)
        author[key] = value
    channels = backbone.out_channels[-1]
    return {**author, 'fc.weight': torch.empty(10, channels), 'fc.bias': torch.empty(10)}


@pytest.mark.parametrize('name', ['cont-m', 'cont-m_relative_prenorm_avgdown'])
def test_names_made_up_here_are_those_of_the_records(name: str) -> None:
    relative = name != 'cont-m'
    with torch.device('meta'):
        backbone = ConTNet('m', pos_encoding='relative' if relative else '2d')
    shapes = record(name)['state_dict']
    made = {key: list(value.shape) for key, value in as_authors(backbone, relative).items()}
    assert made.keys() == shapes.keys()
    for key, shape in made.items():
        assert shape == shapes[key] or key.startswith('fc.') or key.endswith('_index'), key


ALL_14 = ((14, 14),) * 3 + ((7, 7),)


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(pos_encoding='relative'),
        dict(pos_encoding='none', qkv_bias=False),
        dict(avg_down=True, conv_groups=4),
        dict(patch_sizes=ALL_14),
        dict(patch_sizes=ALL_14, pos_encoding='relative'),
        dict(pos_placement='image'),
    ],
    ids=str,
)
@pytest.mark.parametrize('arch', ['ti', 's', 'm', 'b'])
def test_sizes_and_variants_are_recognised(arch: str, options: dict) -> None:
    with torch.device('meta'):
        backbone = ConTNet(arch, **options)
    converted = convert_state_dict(as_authors(backbone, options.get('avg_down', False)))
    found = dict(converted.backbone)
    assert (found.pop('type'), found.pop('arch')) == ('ConTNet', arch)
    assert found == options


def changed(author: dict, **tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Replace tensors by the names' parts, or take them out."""
    result = {**author, **{key.replace('__', '.'): value for key, value in tensors.items()}}
    return {key: value for key, value in result.items() if value is not None}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(fc__bias=None), 'head.fc.bias: nothing instead of'),
        (dict(ema__decay=torch.ones(1)), 'ema.decay: .* instead of nothing'),
        (dict(layer1__ConTBlock0__bn__weight=torch.ones(5)), r'norm.weight: \(5,\) instead'),
        (dict(layer1__ConTBlock7__bn__weight=torch.ones(64)), r'unknown arch: depths \(8, 1'),
        (dict(layer1__ConTBlock0__norm__weight=torch.ones(64)), r'are both backbone.*norm\.weight'),
        (
            dict(
                layer1__ConTBlock0__downsample__conv__weight=None,
                layer1__ConTBlock0__downsample__conv__conv__weight=torch.ones(128, 64, 1, 1),
            ),
            'shortcuts of layer 1 have a pooling layer',
        ),
        (
            dict(layer1__ConTBlock0__ste1__pe__0=torch.ones(1, 1, 7, 32)),
            r'pe\.0 cannot be converted: .*shape',
        ),
        (dict(layer1__ConTBlock0__ste1__pe__1=torch.ones(7)), r'pe\.1 cannot .*shape \(7,\)'),
        (dict(layer1__ConTBlock0__out_conv__conv__weight=torch.ones(9)), r'conv.weight: \(9,\)'),
    ],
)
def test_what_would_not_load_strictly_is_refused(author: dict, change: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert_state_dict(changed(author, **change))


def test_weights_of_no_known_family_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    source = tmp_path / 'source.pth'
    torch.save({'conv1.weight': torch.ones(1)}, source)
    message = r"source\.pth' .*: it holds conv1\.weight; .*ConTNet, CMT, CoTNet"
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / 'out' / 'ours.pth')
    assert [*tmp_path.iterdir()] == [source]


@pytest.mark.parametrize(
    ('name', 'twin'),
    [('cmt-ti_160', 'stages.0.position_bias.table'), ('cotnet-50', 'layer1.0.norm1.weight')],
)
def test_two_tensors_of_one_name_are_refused_in_every_family(name: str, twin: str) -> None:
    author = author_state_dict(record(name)['state_dict'])
    with pytest.raises(CheckpointError, match='two tensors of the checkpoint are both backbone'):
        convert_state_dict({**author, twin: torch.ones(1)})
