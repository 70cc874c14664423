"""What PVTACmix has of its own; the contract of all backbones is tested elsewhere."""

import pytest
import torch
from torch import nn

from mmcontnet.backbones import PVTACmix
from mmcontnet.layers import PathSum

from .. import families
from ..families import parameters_of_acmix


@pytest.mark.parametrize(('arch', 'host'), [('t', 13_229_288), ('s', 24_485_864)])
def test_parameters_are_those_of_pvt_but_for_the_class_token(arch: str, host: int) -> None:
    with torch.device('meta'):
        classifier = nn.ModuleList([PVTACmix(arch), nn.LayerNorm(512), nn.Linear(512, 1000)])
    total = sum(p.numel() for p in classifier.parameters())
    # The token and its place.
    assert total - parameters_of_acmix(classifier) == host - 2 * 512


def weights_of_mmdets_pvt(host: nn.Module) -> dict[str, torch.Tensor]:
    """Name PVT's weights, as mmdet has them, as ours are."""
    state = {}
    for key, value in host.state_dict().items():
        _, i, part, *rest = key.split('.')
        stage = f'stages.{i}'
        # Our stages begin with their embedding, but for the first; mmdet's lists, with positions.
        embedding = 'stem' if i == '0' else f'{stage}.0'
        if part == '0':
            name = '.'.join(rest).replace('projection', 'conv')
            state[f'{embedding}.{name}'] = value
        elif rest[1:] == ['pos_embed']:
            side = int(value.shape[1] ** 0.5)
            state[f'{embedding}.position'] = value.mT.unflatten(2, (side, side))
        else:
            j = int(rest[0]) - (i == '0')
            name, kind = '.'.join(rest[1:-1]), rest[-1]
            if 'in_proj' in kind:
                q, kv = value.tensor_split([len(value) // 3])
                kind = kind.removeprefix('in_proj_')
                state[f'{stage}.{j}.acmix.q.{kind}'] = q
                state[f'{stage}.{j}.acmix.kv.{kind}'] = kv
                continue
            names = {
                'attn.attn.out_proj': 'acmix.proj',
                'attn.sr': 'acmix.reduce',
                'attn.norm': 'acmix.norm',
                'ffn.layers.0': 'ffn.0',
                'ffn.layers.3': 'ffn.2',
            }
            value = value.flatten(1) if name.startswith('ffn') and kind == 'weight' else value
            state[f'{stage}.{j}.{names.get(name, name)}.{kind}'] = value
    return state


@pytest.mark.parametrize('size', [(64, 64), (96, 64)], ids=['native size', 'positions resized'])
@torch.no_grad()
def test_attention_alone_is_mmdets_pvt(size: tuple[int, int]) -> None:
    pvt = pytest.importorskip('mmdet.models.backbones.pvt')
    host = pvt.PyramidVisionTransformer(
        pretrain_img_size=64, embed_dims=8, num_layers=[1, 1, 2, 1], init_cfg=None
    ).eval()
    for parameter in host.parameters():
        nn.init.normal_(parameter, std=0.2)
    backbone = PVTACmix(families.PVT_ACMIX, out_indices=families.ALL).eval()
    left = backbone.load_state_dict(weights_of_mmdets_pvt(host), strict=False)
    assert left.unexpected_keys == []
    assert all('.convolution.' in key or '.sum.' in key for key in left.missing_keys)
    for module in backbone.modules():
        if isinstance(module, PathSum):
            module.rate_attention.fill_(1)
            module.rate_convolution.fill_(0)
    image = torch.randn(2, 3, *size)
    for ours, theirs in zip(backbone(image), host(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_native_maps_have_a_position_for_every_pixel_where_patches_do_not_divide_them() -> None:
    backbone = PVTACmix({**families.PVT_ACMIX, 'img_size': 70}, out_indices=families.ALL)
    sizes = [p.shape[2:] for name, p in backbone.named_parameters() if name.endswith('.position')]
    assert sizes == [out.shape[2:] for out in backbone(torch.randn(1, 3, 70, 70))]


def test_linear_layers_start_small_but_those_that_mix_the_maps_of_a_convolution() -> None:
    for name, module in PVTACmix(families.PVT_ACMIX).named_modules():
        if isinstance(module, nn.Linear) and name.endswith('.mix'):
            assert module.weight.abs().max() > 0.1
        elif isinstance(module, nn.Linear):
            # 0.02 is their standard deviation.
            assert 0.02 < module.weight.abs().max() < 0.12
            assert (module.bias == 0).all()
