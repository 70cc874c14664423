import pytest
import torch
from torch import nn

from mmcontnet.backbones import ConTNet
from mmcontnet.backbones.contnet import ConTBlock

from ..families import ALL
from ..families import CONTNET as SMALL

ENCODER = dict(num_heads=1, feedforward_channels=16)


def test_block_pads_with_zeros_after_the_relu_and_crops_before_the_convolution() -> None:
    block = ConTBlock(8, 16, patch_sizes=(2, 4), project=True, encoder=ENCODER).train()
    x = torch.randn(2, 8, 5, 7)
    u = torch.relu(nn.functional.batch_norm(x, None, None, training=True))
    seen = []
    block.encoders[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    convolved = []
    block.conv.register_forward_pre_hook(lambda _, args: convolved.append(args[0].shape))
    block(x)
    # BatchNorm's statistics are those of the map alone; three rows and a column are added.
    assert seen[0].shape == (2, 8 * 8, 8)
    torch.testing.assert_close(seen[0].sum(), u.sum())
    assert convolved == [x.shape]


def test_padding_changes_nothing_on_sizes_that_need_none() -> None:
    block = ConTBlock(8, 16, patch_sizes=(7, 14), encoder=ENCODER).eval()
    block.shortcut = nn.Conv2d(8, 16, 1, bias=False)
    x = torch.randn(1, 8, 28, 42)
    out = block(x)
    # The plain network of the paper, which knows no padding.
    u = torch.relu(block.norm(x))
    shortcut = block.shortcut(u)
    for encoder, p in zip(block.encoders, (7, 14), strict=True):
        encoder.order = encoder.tile = p
        windows = u.unfold(2, p, p).unfold(3, p, p)  # (1, 8, rows, cols, p, p)
        tokens = windows.permute(0, 2, 3, 4, 5, 1).reshape(1, -1, 8)
        tokens = encoder(tokens, (28, 42)).reshape(1, 28 // p, 42 // p, p, p, 8)
        u = tokens.permute(0, 5, 1, 3, 2, 4).reshape(1, 8, 28, 42)
    torch.testing.assert_close(out, block.conv(u) + shortcut)


OPTIONS = [
    dict(pos_encoding='none'),
    dict(pos_encoding='relative', pre_norm=True, qkv_bias=False),
    dict(pos_encoding='1d', pos_placement='image'),
    dict(pos_encoding='2d', pos_placement='image', pre_norm=True),
    dict(patch_sizes=((7, 7), (3, 6), (7, 7, 14, 14), (14, 14)), avg_down=True),
    dict(conv_groups=4, avg_down=True),
    dict(conv_groups='depthwise', downsample='pool'),
    dict(downsample='pool', output_stride=16),
    dict(downsample='pool', output_stride=8, conv_groups='depthwise', pos_encoding='relative'),
]


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_every_option_trains_at_odd_sizes(options: dict) -> None:
    backbone = ConTNet(SMALL, out_indices=ALL, **options)
    for size in ((64, 64), (45, 61)):
        backbone.zero_grad()
        outs = backbone(torch.randn(2, 3, *size))
        for out, channels, stride in zip(
            outs, backbone.out_channels, backbone.out_strides, strict=True
        ):
            assert out.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        sum(out.square().mean() for out in outs).backward()
        for name, parameter in backbone.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ('arch', 'params'),
    [('ti', 5_885_550), ('s', 10_095_814), ('b', 36_014_110)],
)
def test_parameter_counts_with_relative_bias_are_the_authors(arch: str, params: int) -> None:
    with torch.device('meta'):
        backbone = ConTNet(arch, pos_encoding='relative')
    head = 1000 * (backbone.out_channels[0] + 1)
    assert sum(p.numel() for p in backbone.parameters()) + head == params


def test_a_depthwise_separable_convolution_is_depthwise_first() -> None:
    backbone = ConTNet(SMALL, conv_groups='depthwise')
    for stage in backbone.stages:
        for block in stage:
            if isinstance(block.conv, nn.Sequential):
                depthwise, pointwise = block.conv
                assert depthwise.groups == depthwise.in_channels == depthwise.out_channels
                assert (pointwise.kernel_size, pointwise.groups) == ((1, 1), 1)
                assert depthwise.stride[0] == block.stride


def test_drop_path_rises_linearly_and_dropout_is_that_of_cont_b() -> None:
    backbone = ConTNet('b', drop_path_rate=0.3)
    blocks = [block for stage in backbone.stages for block in stage]
    rates = torch.tensor([block.encoders[1].drop_path.drop_prob for block in blocks])
    torch.testing.assert_close(rates, torch.linspace(0, 0.3, 16))
    dropout = [{e.drop.p for block in stage for e in block.encoders} for stage in backbone.stages]
    assert dropout == [{0.0}, {0.0}, {0.1}, {0.1}]
    assert [block.out_drop.p for block in blocks] == [0.0] * 15 + [0.2]


def test_patch_sizes_are_repeated_over_the_blocks_of_a_stage() -> None:
    backbone = ConTNet(SMALL, patch_sizes=((7, 7, 14, 14), (7, 14), (14, 14), (7, 7)))
    sizes = [
        [encoder.patch_size for block in stage for encoder in block.encoders]
        for stage in backbone.stages
    ]
    assert sizes == [[7, 7, 14, 14], [7, 14], [14, 14], [7, 7, 7, 7]]


@pytest.mark.parametrize(
    ('output_stride', 'strides', 'dilations'),
    [(32, (4, 8, 16, 32), (1, 1, 1, 1)), (16, (4, 8, 16, 16), (1, 1, 1, 2))]
    + [(8, (4, 8, 8, 8), (1, 1, 2, 4))],
)
def test_output_stride_trades_pools_for_dilation_and_keeps_the_weights(
    output_stride: int, strides: tuple[int, ...], dilations: tuple[int, ...]
) -> None:
    backbone = ConTNet(SMALL, downsample='pool', output_stride=output_stride, out_indices=ALL)
    backbone.load_state_dict(ConTNet(SMALL).state_dict(), strict=True)
    assert backbone.out_strides == strides
    for stage, dilation in zip(backbone.stages, dilations, strict=True):
        for conv in (m for m in stage.modules() if isinstance(m, nn.Conv2d)):
            # Dilation means nothing to a 1x1 convolution, and must not pad it either.
            expected = (dilation, dilation) if conv.kernel_size == (3, 3) else (0, 0)
            assert conv.padding == expected
            assert conv.dilation[0] == dilation or conv.kernel_size == (1, 1)


def test_average_pooling_shortcut_averages_what_a_stride_would_skip() -> None:
    block = ConTBlock(
        8, 16, patch_sizes=(7, 14), stride=2, project=True, avg_down=True, encoder=ENCODER
    ).eval()
    nn.init.zeros_(block.conv.weight)
    x = torch.randn(1, 8, 5, 4)
    u = torch.relu(block.norm(x))
    out = block(x)
    torch.testing.assert_close(
        out[..., 0, 1:2], block.shortcut(u[..., :2, 2:].mean((2, 3), True))[..., 0]
    )
    # The last row has half a window.
    torch.testing.assert_close(
        out[..., 2, 1:2], block.shortcut(u[..., 4:, 2:].mean((2, 3), True))[..., 0]
    )
