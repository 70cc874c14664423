"""Key maps of all variants, and the converter; test_parity.py has eleven networks in numbers."""

import argparse
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcontnet import backbones
from mmcontnet.backbones.cotnet import ARCHS as COTNETS
from mmcontnet.checkpoint import read_weights
from mmcontnet.errors import CheckpointError
from mmcontnet.necks import CMTNeck
from mmcontnet.weights import convert_checkpoint, convert_state_dict
from tests.inprocess import run_tool
from tests.parity import author_state_dict, record

#: Records of which each family's names are known, the deep CoTNets apart.
RECORDS = {
    'ConTNet': ['cont-s', 'cont-s_relative'],
    'CMT': ['cmt-ti_160'],
    'CoTNet': ['cotnet-50'],
    'CoTNet, deep': ['se-cotnetd-50'],
    'ResNetACmix': ['resnet-acmix-26'],
    'SwinACmix': ['swin-acmix-t'],
}
#: What is before the number of a block, in the authors' names and in ours.
BLOCK = re.compile(
    r'(layer\d\.(?:ConTBlock)?|blocks_\w\.|layers\.\d\.blocks\.|stages\.\d\.(?:blocks\.)?)(\d+)'
)


@cache
def names_of(recorded: str) -> dict[str, list[tuple[str, list[int]]]]:
    """Map our names to the authors' and their shapes, with # for the number of a block."""
    shapes = record(recorded)['state_dict']
    keys = list(shapes)
    tagged = {key: torch.tensor(float(i)).expand(shapes[key]) for i, key in enumerate(keys)}
    names = {}
    for name, value in convert_state_dict(tagged).state_dict.items():
        while value.dim() > 1:
            value = value[..., 0]
        joined = [keys[int(i)] for i in value.reshape(-1).unique_consecutive()]
        names[BLOCK.sub(r'\1#', name)] = [(BLOCK.sub(r'\1#', key), shapes[key]) for key in joined]
    return names


@cache
def as_authors(family: str, **options: Any) -> dict[str, Tensor]:
    """Name and shape the tensors of any variant, without memory, as its authors do."""
    deep = family == 'CoTNet' and COTNETS[options['arch']]['deep']
    records = RECORDS[f'{family}, deep' if deep else family]
    if options.get('avg_down'):
        records = [*records, 'cont-m_relative_prenorm_avgdown']
    names = {ours: theirs for name in records for ours, theirs in names_of(name).items()}
    with torch.device('meta'):
        backbone = getattr(backbones, family)(**options)
        channels = backbone.out_channels[-1]
        neck = CMTNeck(channels)
        head = nn.Linear(1280 if family == 'CMT' else channels, 1000)
    state = backbone.state_dict(prefix='backbone.') | head.state_dict(prefix='head.fc.')
    if family == 'CMT':
        state |= neck.state_dict(prefix='neck.')
    author: dict[str, Tensor] = {}
    for name, value in state.items():
        block = BLOCK.search(name)
        theirs = names[BLOCK.sub(r'\1#', name)]
        parts = value.chunk(len(theirs)) if len(theirs) > 1 else [value]
        for (key, shape), part in zip(theirs, parts, strict=True):
            if len(shape) > part.dim():  # where ours leave out sides of 1
                sides = iter(part.shape)
                part = part.reshape([1 if n == 1 else next(sides) for n in shape])
            author[key.replace('#', block[2] if block else '')] = part
    return author


@pytest.mark.parametrize(
    ('name', 'family', 'options'),
    [
        ('cont-m', 'ConTNet', dict(arch='m')),
        ('cmt-s_224', 'CMT', dict(arch='s')),
        ('cotnext-50', 'CoTNet', dict(arch='next50')),
    ],
)
def test_names_made_up_here_are_those_of_other_records(
    name: str, family: str, options: dict[str, Any]
) -> None:
    made = {key: list(value.shape) for key, value in as_authors(family, **options).items()}
    assert made == record(name)['state_dict']


ALL_14 = ((14, 14),) * 3 + ((7, 7),)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *(('ConTNet', dict(arch=arch)) for arch in ('ti', 's', 'm', 'b')),
    ('ConTNet', dict(arch='s', pos_encoding='relative')),
    ('ConTNet', dict(arch='s', pos_encoding='none', qkv_bias=False)),
    ('ConTNet', dict(arch='s', avg_down=True, conv_groups=4)),
    ('ConTNet', dict(arch='s', patch_sizes=ALL_14)),
    ('ConTNet', dict(arch='b', patch_sizes=ALL_14, pos_encoding='relative')),
    ('ConTNet', dict(arch='s', pos_placement='image')),
    *(('CMT', dict(arch=arch)) for arch in ('ti', 'xs', 's', 'b', 'l')),
    ('CMT', dict(arch='s', img_size=256)),
    ('CMT', dict(arch='b', img_size=224)),
    *(('CoTNet', dict(arch=arch)) for arch in COTNETS),
    *(('ResNetACmix', dict(arch=arch)) for arch in ('26', '38', '50')),
    ('ResNetACmix', dict(arch='38', num_heads=8)),
    *(('SwinACmix', dict(arch=arch)) for arch in ('t', 's')),
    ('SwinACmix', dict(arch='s', window_size=14)),
]


@pytest.mark.parametrize(('family', 'options'), VARIANTS, ids=str)
def test_variants_are_recognised_and_fit(family: str, options: dict[str, Any]) -> None:
    author = dict(as_authors(family, **options))
    if options['arch'] == 'se-d152':  # whose filter is fixed, and no weight of ours
        author['layer1.0.aa.filt'] = torch.empty(256, 1, 3, 3)
    # The converter compares every name and shape with the network of these arguments.
    converted = convert_state_dict(author)
    assert converted.backbone == dict(type=family, **options)


#: Family, arch, what is changed (shapes by names; None takes out what contains a name), message.
Shapes = dict[str, tuple[int, ...] | None]
CONT_BLOCK = 'layer1.ConTBlock0'
MISTAKES: list[tuple[str, str, Shapes, str]] = [
    ('ConTNet', 's', {'fc.bias': None}, 'head.fc.bias: nothing instead of'),
    ('ConTNet', 's', {'ema.decay': (1,)}, 'ema.decay: .* instead of nothing'),
    ('ConTNet', 's', {f'{CONT_BLOCK}.bn.weight': (5,)}, r'norm.weight: \(5,\) instead'),
    ('ConTNet', 's', {'layer1.ConTBlock7.bn.weight': (64,)}, r'unknown arch: depths \(8, 1'),
    ('ConTNet', 's', {f'{CONT_BLOCK}.norm.weight': (64,)}, r'two .* both backbone.*norm\.weight'),
    (
        'ConTNet',
        's',
        {
            f'{CONT_BLOCK}.downsample.conv.weight': None,
            f'{CONT_BLOCK}.downsample.conv.conv.weight': (128, 64, 1, 1),
        },
        'shortcuts of layer 1 have a pooling layer',
    ),
    ('ConTNet', 's', {f'{CONT_BLOCK}.ste1.pe.1': (7,)}, r'pe\.1 cannot .*shape \(7,\)'),
    ('ConTNet', 's', {f'{CONT_BLOCK}.ste1.pe.0': (1, 1, 7, 32)}, r'pe\.0 cannot .*shape'),
    ('ConTNet', 's', {f'{CONT_BLOCK}.out_conv.conv.weight': (9,)}, r'conv.weight: \(9,\)'),
    ('CMT', 's', {'relative_pos_a': (3136, 49)}, r'_a has .* instead of \(1, N, N / 64'),
    ('ResNetACmix', '26', {'layer1.0.conv2.conv2.weight': None}, r'\(128, 64, .* of \(192,'),
    (
        'ResNetACmix',
        '26',
        {'layer1.0.conv2.conv2.weight': (64, 32, 1, 1)},
        'conv2.conv3.weight cannot be converted: ',
    ),
    ('SwinACmix', 't', {'.dep_conv.': None}, 'unknown .* holds .*; .*: ConTNet, CMT, CoTNet, Res'),
]


@pytest.mark.parametrize(('family', 'arch', 'change', 'message'), MISTAKES)
def test_what_would_not_load_strictly_is_refused(
    family: str, arch: str, change: Shapes, message: str
) -> None:
    author = dict(as_authors(family, arch=arch))
    for name, shape in change.items():
        if shape is None:
            author = {key: value for key, value in author.items() if name not in key}
        else:
            author[name] = torch.empty(shape, device='meta')
    with pytest.raises(CheckpointError, match=message):
        convert_state_dict(author)


def test_projections_are_joined_in_the_order_of_queries_keys_and_values() -> None:
    author = dict(as_authors('ResNetACmix', arch='26'))
    parts = [torch.full((64,), float(i)) for i in range(3)]
    author |= {f'layer1.0.conv2.conv{i}.bias': part for i, part in enumerate(parts, 1)}
    # Whatever their order in the file.
    converted = convert_state_dict(dict(reversed(author.items())))
    joined = converted.state_dict['backbone.stages.0.0.layer.0.qkv.bias']
    torch.testing.assert_close(joined, torch.cat(parts))


# Files.


@pytest.mark.parametrize(
    ('names', 'option', 'taken', 'message'),
    [
        ((), [], None, None),
        (('model',), [], 'model', None),
        (('state_dict_ema',), [], 'state_dict_ema', None),
        (('state_dict', 'state_dict_ema'), [], 'state_dict_ema', None),
        (('state_dict', 'state_dict_ema'), ['--no-ema'], 'state_dict', None),
        (('model', 'model_ema'), ['--ema'], 'model_ema', None),
        ((), ['--no-ema'], None, None),
        ((), ['--ema'], None, r'no EMA \(state_dict_ema or model_ema\)$'),
        (('model',), ['--ema'], None, r'no EMA \(.*\), only model$'),
        (('state_dict_ema',), ['--no-ema'], None, r'no plain .* model\), only state_dict_ema$'),
    ],
    ids=str,
)
def test_wrapped_or_not_the_ema_or_what_is_asked_for_is_converted_or_said_to_be_missing(
    names: tuple[str, ...],
    option: list[str],
    taken: str | None,
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Of what training scripts save: weights of 0, an EMA of 1, and more."""
    monkeypatch.chdir(tmp_path)
    shapes = record('cont-s')['state_dict']
    # Of one element in memory each: nothing here takes time.
    zeros, ones = (
        {k: x.expand(s) for k, s in shapes.items()} for x in (torch.zeros(()), torch.ones(()))
    )
    content: dict[str, Any] = {}
    for name in names:
        weights = ones if name.endswith('ema') else zeros
        content[name] = {f'module.{key}': value for key, value in weights.items()}
    if names:
        groups = [{'lr': 0.1}]
        optimizer = {'state': {0: {'momentum_buffer': torch.ones(2)}}, 'param_groups': groups}
        args = argparse.Namespace(lr=0.1, data='/imagenet')
        content.update(arch='net', epoch=3, args=args, optimizer=optimizer, metric=76.5)
    torch.save(content or zeros, 'author.pth')
    line = run_tool(monkeypatch, 'convert_checkpoint.py', 'author.pth', 'ours.pth', *option)
    if message:
        assert re.search(f'^convert_checkpoint.py: error: .*author.pth.* {message}', str(line))
        assert not Path('ours.pth').exists()
        return
    assert line is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f"'arch': 's'}}, from {taken!r}" if taken else "'arch': 's'}")
    state_dict = torch.load('ours.pth', weights_only=True)['state_dict']
    expected = 1.0 if str(taken).endswith('ema') else 0.0
    assert all((tensor == expected).all() for tensor in state_dict.values())


def test_safetensors_are_written_and_read(tmp_path: Path) -> None:
    library = pytest.importorskip('safetensors')
    write = pytest.importorskip('safetensors.torch').save_file
    author = author_state_dict(record('cont-s')['state_dict'])
    torch.save(author, tmp_path / 'author.pth')
    converted = convert_checkpoint(tmp_path / 'author.pth', tmp_path / 'ours.safetensors')
    with library.safe_open(tmp_path / 'ours.safetensors', 'pt') as file:
        assert json.loads(file.metadata()['backbone']) == converted.backbone
    found = read_weights(str(tmp_path / 'ours.safetensors'))
    assert found.keys() == converted.state_dict.keys()
    assert all(torch.equal(value, converted.state_dict[key]) for key, value in found.items())
    # And again, as an author's file.
    write(author, tmp_path / 'author.safetensors')
    again = convert_checkpoint(tmp_path / 'author.safetensors', tmp_path / 'ours.pth').state_dict
    assert all(torch.equal(value, again[key]) for key, value in found.items())
