"""Key maps of all variants, and the converter; test_parity.py has eleven networks in numbers."""

import argparse
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmcontnet import backbones
from mmcontnet.backbones.cotnet import ARCHS as COTNETS
from mmcontnet.checkpoint import read_checkpoint
from mmcontnet.errors import CheckpointError
from mmcontnet.necks import CMTNeck
from mmcontnet.weights import convert_checkpoint, convert_state_dict
from tests.inprocess import run_tool
from tests.parity import author_state_dict, record

#: What makes the authors' names of ours.
RENAMES: dict[str, tuple] = {
    'ConTNet': (
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
    ),
    'CMT': (
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
    ),
    'CoTNet': (
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
    ),
    'ResNetACmix': (
        (r'^stem\.convs\.0\.', 'conv1.'),
        (r'^stem\.norms\.0\.', 'bn1.'),
        (r'^stages\.(\d)\.', lambda m: f'layer{int(m[1]) + 1}.'),
        (r'\.norm([13])\.', r'.bn\1.'),
        (r'\.shortcut\.', '.downsample.'),
        (r'\.layer\.1\.', '.bn2.'),
        (r'\.layer\.0\.', '.conv2.'),
        (r'\.position\.', '.conv_p.'),
    ),
    'SwinACmix': (
        (r'^stem\.conv\.', 'patch_embed.proj.'),
        (r'^stem\.', 'patch_embed.'),
        (r'^stages\.3\.norm\.', 'norm.'),
        (r'^stages\.(\d)\.merging\.', lambda m: f'layers.{int(m[1]) - 1}.downsample.'),
        (r'^stages\.', 'layers.'),
        (r'\.(fc[12])\.', r'.mlp.\1.'),
        (r'\.position_bias\.', '.'),
        (r'\.acmix\.', '.attn.'),
    ),
}
ACMIX = (
    (r'\.sum\.rate_attention$', '.rate1'),
    (r'\.sum\.rate_convolution$', '.rate2'),
    (r'\.convolution\.mix\.', '.fc.'),
    (r'\.convolution\.shift\.', '.dep_conv.'),
)
#: Where the stem is one convolution, and no shortcut pools.
SHALLOW = (
    (r'^conv1\.0\.', 'conv1.'),
    (r'^conv1\.1\.', 'bn1.'),
    (r'(downsample)\.([12])', lambda m: f'{m[1]}.{int(m[2]) - 1}'),
)
#: The pool is a module before the convolution, where there is a stride.
AVG_DOWN = ((r'(layer[123]\.\w+\.downsample\.conv)\.', r'\1.conv.'),)


@cache
def as_authors(family: str, **options: Any) -> dict[str, Tensor]:
    """Name and shape our tensors, without memory, as the authors of a family do."""
    renames = RENAMES[family] + ACMIX * ('ACmix' in family)
    renames += AVG_DOWN * options.get('avg_down', False)
    author: dict[str, Tensor] = {}
    with torch.device('meta'):
        backbone = getattr(backbones, family)(**options)
        channels = backbone.out_channels[-1]
        neck = CMTNeck(channels)
        head = nn.Linear(1280 if family == 'CMT' else channels, 1000)
    if family == 'CMT':
        author |= neck.conv.state_dict(prefix='_fc.') | neck.norm.state_dict(prefix='_bn.')
    elif family == 'CoTNet':
        renames += SHALLOW * (not COTNETS[options['arch']]['deep'])
        if COTNETS[options['arch']]['blur']:  # fixed, and therefore no weight of ours
            author['layer1.0.aa.filt'] = torch.empty(256, 1, 3, 3)
    author |= head.state_dict(prefix='head.' if family in ('CMT', 'SwinACmix') else 'fc.')
    for name, value in backbone.state_dict().items():
        key = name
        for pattern, replacement in renames:
            key = re.sub(pattern, replacement, key)
        if family == 'ResNetACmix' and '.qkv.' in key:
            parts = enumerate(value.chunk(3), 1)
            author |= {key.replace('.qkv.', f'.conv{i}.'): part for i, part in parts}
            continue
        if name.endswith('.mix.weight'):
            value = value[..., None, None]
        elif '.pe.' in key:
            value = value[None, :, None] if key.endswith('0') else value[None, None]
        elif key.endswith('bias_table'):
            tokens = (math.isqrt(len(value)) // 2 + 1) ** 2
            author[key.replace('bias_table', 'index')] = index = torch.empty(
                tokens, tokens, device='meta'
            )
            stage, block = map(int, re.findall(r'\.(\d+)', name)[:2])
            if family == 'SwinACmix' and stage < 3 and block % 2:  # shifted
                mask = index.expand((56 >> stage) ** 2 // tokens, -1, -1)
                author[f'layers.{stage}.blocks.{block}.attn_mask'] = mask
        author[key] = value
    return author


@pytest.mark.parametrize(
    ('name', 'family', 'options'),
    [
        ('cont-m', 'ConTNet', dict(arch='m')),
        (
            'cont-m_relative_prenorm_avgdown',
            'ConTNet',
            dict(arch='m', pos_encoding='relative', avg_down=True),
        ),
        ('cmt-ti_160', 'CMT', dict(arch='ti')),
        ('cmt-s_224', 'CMT', dict(arch='s')),
        ('cotnet-50', 'CoTNet', dict(arch='50')),
        ('cotnext-50', 'CoTNet', dict(arch='next50')),
        ('se-cotnetd-50', 'CoTNet', dict(arch='se-d50')),
        ('resnet-acmix-26', 'ResNetACmix', dict(arch='26')),
        ('swin-acmix-t', 'SwinACmix', dict(arch='t')),
    ],
)
def test_names_made_up_here_are_those_of_the_records(
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
    # The converter compares every name and shape with the network of these arguments.
    converted = convert_state_dict(as_authors(family, **options))
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
    (
        'ConTNet',
        's',
        {f'{CONT_BLOCK}.ste1.pe.0': (1, 1, 7, 32)},
        r'pe\.0 cannot be converted: .*shape',
    ),
    ('ConTNet', 's', {f'{CONT_BLOCK}.ste1.pe.1': (7,)}, r'pe\.1 cannot .*shape \(7,\)'),
    ('ConTNet', 's', {f'{CONT_BLOCK}.out_conv.conv.weight': (9,)}, r'conv.weight: \(9,\)'),
    ('CMT', 's', {'relative_pos_a': (1, 3025, 49)}, r'_a has .* instead of \(1, N, N / 64'),
    ('CMT', 's', {'relative_pos_a': (1, 3025, 36)}, 'relative_pos_a has shape'),
    ('CMT', 's', {'relative_pos_a': (1, 3136, 48)}, 'relative_pos_a has shape'),
    ('CMT', 's', {'relative_pos_a': (3136, 49)}, 'relative_pos_a has shape'),
    ('CMT', 's', {'relative_pos_b': (2, 784, 48)}, r'table: \(2, 784, 48\) instead of'),
    ('CMT', 's', {'blocks_c.16.norm1.weight': (256,)}, r'depths \(3, 3, 17, 3\), width 64'),
    ('CMT', 'ti', {'stages.0.position_bias.table': (1,)}, 'two tensors .* are both backbone'),
    ('CoTNet', '50', {'layer3.6.conv1.weight': (256,)}, r'depths \(3, 4, 7, 3\), width 64'),
    ('CoTNet', '50', {'layer1.0.norm1.weight': (1,)}, 'two tensors .* are both backbone'),
    ('ResNetACmix', '26', {'layer1.0.conv2.conv2.weight': None}, r'\(128, 64, .* of \(192,'),
    (
        'ResNetACmix',
        '26',
        {'layer1.0.conv2.conv2.weight': (64, 32, 1, 1)},
        'conv2.conv3.weight cannot be converted: ',
    ),
    ('ResNetACmix', '26', {'layer4.1.bn1.weight': (512,)}, r'depths \(1, 2, 4, 2\), width 64'),
    ('ResNetACmix', '26', {'layer2.0.conv2.rate2': None}, 'rate_convolution: nothing instead'),
    ('SwinACmix', 't', {'layers.2.blocks.6.attn.rate1': (1,)}, r'\(2, 2, 7, 2\), width 96'),
    ('SwinACmix', 't', {'.dep_conv.': None}, 'unknown checkpoint'),
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


def convert_what_is_saved(
    names: tuple[str, ...], option: list[str], monkeypatch: pytest.MonkeyPatch
) -> str | None:
    """Save and convert what training scripts write: weights of 0, an EMA of 1, and more."""
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
    return run_tool(monkeypatch, 'convert_checkpoint.py', 'author.pth', 'ours.pth', *option)


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
    monkeypatch.chdir(tmp_path)
    assert convert_what_is_saved(names, option, monkeypatch) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f"'arch': 's'}}, from {taken!r}" if taken else "'arch': 's'}")
    state_dict = torch.load('ours.pth', weights_only=True)['state_dict']
    expected = 1.0 if str(taken).endswith('ema') else 0.0
    assert all((tensor == expected).all() for tensor in state_dict.values())


@pytest.mark.parametrize(
    ('names', 'option', 'message'),
    [
        ((), '--ema', r'no EMA \(state_dict_ema or model_ema\)$'),
        (('model',), '--ema', r'no EMA \(.*\), only model$'),
        (('state_dict_ema',), '--no-ema', r'no plain .* or model\), only state_dict_ema$'),
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
    monkeypatch.chdir(tmp_path)
    line = str(convert_what_is_saved(names, [option], monkeypatch))
    assert re.search(f'^convert_checkpoint.py: error: .*author.pth.* holds {message}', line)
    assert not Path('ours.pth').exists()


def test_a_converted_file_initialises_the_backbone_of_a_detector(tmp_path: Path) -> None:
    torch.save(author_state_dict(record('cont-s')['state_dict']), tmp_path / 'author.pth')
    converted = convert_checkpoint(tmp_path / 'author.pth', tmp_path / 'ours.pth').state_dict
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'ours.pth'), prefix='backbone.')
    config = dict(type='ConTNet', arch='s', downsample='pool', init_cfg=init_cfg)
    detector = BaseModule()
    detector.backbone = MODELS.build(config)
    detector.init_weights()
    for key, value in detector.state_dict().items():
        assert torch.equal(value, converted[key]), key


def test_safetensors_are_written_and_read(tmp_path: Path) -> None:
    library = pytest.importorskip('safetensors')
    write = pytest.importorskip('safetensors.torch').save_file
    torch.save(author_state_dict(record('cont-s')['state_dict']), tmp_path / 'author.pth')
    converted = convert_checkpoint(tmp_path / 'author.pth', tmp_path / 'ours.safetensors')
    with library.safe_open(tmp_path / 'ours.safetensors', 'pt') as file:
        assert json.loads(file.metadata()['backbone']) == converted.backbone
    found = read_checkpoint(tmp_path / 'ours.safetensors')
    assert found.keys() == converted.state_dict.keys()
    assert all(torch.equal(value, converted.state_dict[key]) for key, value in found.items())
    # And again, as an author's file.
    write(dict(author_state_dict(record('cont-s')['state_dict'])), tmp_path / 'author.safetensors')
    again = convert_checkpoint(tmp_path / 'author.safetensors', tmp_path / 'ours.pth').state_dict
    assert all(torch.equal(value, again[key]) for key, value in found.items())


def test_weights_of_no_known_family_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    source = tmp_path / 'source.pth'
    torch.save({'conv1.weight': torch.ones(1)}, source)
    message = r"source\.pth' .*: it holds conv1\.weight; .*ConTNet, CMT, CoTNet"
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / 'out' / 'ours.pth')
    assert [*tmp_path.iterdir()] == [source]
