"""Networks that take milliseconds: every part of the real ones, narrow."""

ALL = (0, 1, 2, 3)

CONTNET = dict(
    embed_dims=(8, 16, 32, 64),
    num_heads=(1, 2, 4, 8),
    feedforward_channels=(16, 32, 32, 64),
    depths=(2, 1, 1, 2),
    drop_rates=(0.0, 0.0, 0.0, 0.0),
    out_drop_rate=0.0,
)
CMT = dict(
    stem_channels=4, embed_dims=(8, 16, 32, 64), depths=(1, 1, 2, 1), ffn_ratio=2.5, img_size=64
)
COTNET = dict(
    out_channels=(32, 64, 96, 128),
    mid_channels=(16, 32, 48, 64),
    layers=('cot', 'split', 'alternate', 'conv'),
    groups=2,
    key_groups=4,
    stem_channels=16,
    deep=True,
    blur=True,
    depths=(1, 1, 2, 1),
)
RESNET_ACMIX = dict(
    out_channels=(32, 48, 64, 96), mid_channels=(8, 12, 16, 24), depths=(1, 2, 1, 1)
)
# Two blocks make a pair, of which the second is shifted.
SWIN_ACMIX = dict(embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4), depths=(2, 1, 2, 2))
SAN_ACMIX = dict(stem_channels=32, channels=(32, 64, 96, 128), stem_depth=1, depths=(1, 1, 2, 1))
PVT_ACMIX = dict(
    embed_dims=(8, 16, 40, 64), num_heads=(1, 2, 5, 8), depths=(1, 1, 2, 1), img_size=64
)
