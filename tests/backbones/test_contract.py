"""What every backbone promises (HybridBackbone), for every family."""

import itertools

import pytest
import torch
from torch import nn

from mmcontnet import backbones

from ..families import ALL, CONTNET, FAMILIES, Family, every_family


def test_every_backbone_is_tested_here() -> None:
    assert {family.type for family in FAMILIES} == set(backbones.__all__)


# 31 x 31 leaves a map of one pixel to the last stage; 112 x 137 is odd nearly everywhere.
@pytest.mark.parametrize('size', [(64, 64), (31, 31), (112, 137), (1, 1), (800, 1344)])
@every_family
def test_outputs_have_the_promised_channels_and_strides(
    family: Family, size: tuple[int, int]
) -> None:
    backbone = family(out_indices=ALL).eval()
    assert backbone.out_channels == family.channels
    assert backbone.out_strides == family.strides
    with torch.no_grad():
        outs = backbone(torch.randn(1, 3, *size))
    for out, channels, stride in zip(outs, family.channels, family.strides, strict=True):
        assert out.shape == (1, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert out.isfinite().all()


@every_family
def test_compiled_operators_can_read_the_outputs(family: Family) -> None:
    ops, torchvision = pytest.importorskip('mmcv.ops'), pytest.importorskip('torchvision')
    out = family(out_indices=ALL).eval()(torch.randn(2, 3, 64, 64))[1]
    rois = torch.tensor([[0.0, 1.0, 1.0, 6.0, 5.0], [1.0, 0.0, 2.0, 4.0, 7.0]])
    # mmcv's RoIAlign takes no notice of strides.
    expected = torchvision.ops.roi_align(out, rois, 3, sampling_ratio=2, aligned=True)
    actual = ops.roi_align(out, rois, (3, 3), 1.0, 2, 'avg', True)
    torch.testing.assert_close(actual, expected)


@every_family
def test_images_of_a_batch_do_not_influence_each_other_in_eval_mode(family: Family) -> None:
    backbone = family(out_indices=ALL).eval()
    x = torch.randn(3, 3, 61, 45)
    for batch, single in zip(backbone(x), backbone(x[1:2]), strict=True):
        torch.testing.assert_close(batch[1:2], single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    'out_indices', [s for n in range(1, 5) for s in itertools.combinations(ALL, n)], ids=str
)
@every_family
def test_every_parameter_has_a_gradient(family: Family, out_indices: tuple[int, ...]) -> None:
    backbone = family(out_indices=out_indices)
    sum(out.square().mean() for out in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@every_family
def test_out_indices_may_be_negative_and_keep_their_order_and_the_callers_list(
    family: Family,
) -> None:
    given = [-1, 1]
    backbone = family(out_indices=given)
    assert given == [-1, 1]
    assert backbone.out_indices == (3, 1)
    channels = (family.channels[3], family.channels[1])
    assert tuple(out.shape[1] for out in backbone(torch.randn(2, 3, 64, 64))) == channels
    assert backbone.out_channels == channels
    assert backbone.out_strides == (family.strides[3], family.strides[1])
    assert family(out_indices=0).out_channels == family.channels[:1]


@pytest.mark.parametrize('frozen_stages', range(-1, 5))
@every_family
def test_frozen_means_frozen_directly_after_construction_and_after_train(
    family: Family, frozen_stages: int
) -> None:
    backbone = family(frozen_stages=frozen_stages)
    parts = [backbone.stem, *backbone.stages]
    for _ in range(2):
        for i, part in enumerate(parts):
            frozen = i <= frozen_stages
            assert all(p.requires_grad is not frozen for p in part.parameters())
            norms = [m for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
            assert all(m.training is not frozen for m in norms)
        backbone.eval()
        backbone.train()


@every_family
def test_norm_eval_keeps_batch_norm_in_eval_mode(family: Family) -> None:
    backbone = family(norm_eval=True)
    for module in (backbone, backbone.train()):
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        assert bool(norms) is (family.type not in ('PVTACmix', 'SwinACmix'))
        assert not any(m.training for m in norms)
        assert module.stages[0].training


@pytest.mark.parametrize('dropout', [0.0, 0.3])
@every_family
def test_checkpointing_gives_the_same_outputs_gradients_and_running_statistics(
    family: Family, dropout: float
) -> None:
    options = dict(out_indices=ALL, drop_path_rate=dropout)
    if family.type == 'ConTNet':
        options['arch'] = {**CONTNET, 'drop_rates': (dropout,) * 4, 'out_drop_rate': dropout}
    x = torch.randn(2, 3, 70, 50)
    results = []
    state = family(**options).state_dict()
    for with_cp in (False, True):
        backbone = family(**options, with_cp=with_cp)
        backbone.load_state_dict(state)
        torch.manual_seed(1)
        outs = backbone(x)
        sum(out.square().mean() for out in outs).backward()
        grads = [p.grad for p in backbone.parameters()]
        results.append((outs, grads, list(backbone.buffers())))
    torch.testing.assert_close(results[0], results[1])


@every_family
def test_checkpointing_takes_norms_that_average_all_batches(family: Family) -> None:
    states = []
    state = family().state_dict()
    for with_cp in (False, True):
        backbone = family(with_cp=with_cp)
        backbone.load_state_dict(state)
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        for x in torch.randn(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)):
            backbone(x)[0].sum().backward()
        states.append(backbone.state_dict())
    torch.testing.assert_close(states[0], states[1])


@every_family
def test_bf16_autocast_is_finite(family: Family) -> None:
    backbone = getattr(backbones, family.type)(**family.real)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = backbone(torch.randn(2, 3, 64, 64))[0]
    out.float().square().mean().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize('shape', [(3, 64, 64), (1, 4, 64, 64), (1, 3, 0, 64)])
@every_family
def test_inputs_that_cannot_be_computed_are_refused(family: Family, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r'takes images of shape \(B, 3, H, W\)'):
        family()(torch.randn(shape))


@every_family
def test_other_numbers_of_input_channels_work(family: Family) -> None:
    (out,) = family(in_channels=1)(torch.randn(2, 1, 64, 64))
    assert out.shape == (2, family.channels[3], 2, 2)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='xxl'), r"no arch 'xxl'; choose from \['"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), 'a dict with the fields'),
        (dict(arch=3), 'must be one of'),
        (dict(out_indices=(4,)), r'out_indices must be .* got \(4,\)'),
        (dict(out_indices=()), 'out_indices must be'),
        (dict(out_indices=None), 'out_indices must be'),
        (dict(out_indices=(3, -1)), 'names a stage twice'),
        (dict(frozen_stages=5), r'frozen_stages must be in -1\.\.4, got 5'),
        (dict(in_channels=0), 'in_channels must be a positive int'),
    ],
)
@every_family
def test_bad_arguments_are_named(family: Family, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        family(**kwargs)


@pytest.mark.parametrize(
    ('depths', 'message'),
    [((1, 1, 1), r'depths of an arch must have 4 values, got \(1, 1, 1\)'), (5, 'have 4 values')]
    + [((1, 0, 1, 1), 'must be positive'), ((1, 1.5, 1, 1), 'must be positive')],
)
@every_family
def test_depths_that_make_no_network_are_named(
    family: Family, depths: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        family(arch={**family.kwargs['arch'], 'depths': depths})


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@every_family
def test_cuda_agrees_with_cpu(family: Family, dtype: torch.dtype) -> None:
    backbone = getattr(backbones, family.type)(**family.real, out_indices=ALL).eval()
    x = torch.randn(2, 3, 230, 222)
    with torch.no_grad():
        expected = backbone(x)
        with torch.autocast('cuda', dtype=dtype, enabled=dtype != torch.float32):
            actual = backbone.cuda()(x.cuda())
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    for a, e in zip(actual, expected, strict=True):
        error = (a.float().cpu() - e).abs().max() / e.abs().max()
        assert error < tolerance
