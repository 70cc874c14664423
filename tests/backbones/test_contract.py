"""What every backbone promises (HybridBackbone), for every family."""

import copy
import hashlib
import inspect
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from mmcontnet import backbones
from mmcontnet.backbones.base import Stage
from mmcontnet.backbones.swin_acmix import SwinACmixStage
from mmcontnet.layers import COMBINATIONS, SHIFT_INITS, ConvolutionPath, PathSum
from mmcontnet.ops import force_reference, reference_forced

from ..families import ALL, CONTNET, FAMILIES, SWIN_ACMIX, Family, blocks, every_family, wrapped


def test_every_backbone_is_tested_here() -> None:
    assert {family.type for family in FAMILIES} == set(backbones.__all__)


#: Hashes of the names and shapes of the small networks' weights. Checkpoints hold these names.
NAMES = {
    'CMT': '16f9eca9c7b1826b',
    'CoTNet': '333611dd2ade242f',
    'ConTNet': '712f6ccf955bcc36',
    'PVTACmix': 'ed4275aad3747cad',
    'ResNetACmix': 'eb8d513d9c5195a0',
    'SANACmix': '24c654aa5e457738',
    'SwinACmix': '8fe0aa31aa7832d6',
}


@every_family
def test_names_and_shapes_of_weights_are_those_of_checkpoints(family: Family) -> None:
    weights = family(out_indices=ALL).state_dict()
    lines = [f'{name} {tuple(tensor.shape)}' for name, tensor in weights.items()]
    digest = hashlib.sha256('\n'.join(lines).encode()).hexdigest()
    assert digest.startswith(NAMES[family.type]), lines


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
def test_every_parameter_has_a_gradient_whichever_output_is_used(family: Family) -> None:
    for out_indices in (*ALL, ALL):
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


@every_family
def test_frozen_means_frozen_directly_after_construction_and_after_train(family: Family) -> None:
    for frozen_stages in range(-1, 5):
        backbone = family(frozen_stages=frozen_stages)
        for _ in range(2):
            for i, part in enumerate([backbone.stem, *backbone.stages]):
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
    results = []
    state = family(**options).state_dict()
    for with_cp in (False, True):
        backbone = family(**options, with_cp=with_cp)
        backbone.load_state_dict(state)
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d) and dropout:
                module.momentum = None  # average all batches
        torch.manual_seed(1)
        for _ in range(2):
            outs = backbone(torch.randn(2, 3, 70, 50))
            loss = sum(out.square().mean() for out in outs)
            loss.backward(retain_graph=True)
            loss.backward()  # through the same graph
        grads = [p.grad for p in backbone.parameters()]
        results.append((outs, grads, list(backbone.buffers())))
    torch.testing.assert_close(results[0], results[1])


@every_family
def test_checkpointing_computes_all_blocks_again_but_pools(family: Family) -> None:
    backbone = family()
    assert backbone.with_cp is False
    backbone.with_cp = True
    assert backbone.with_cp is family(with_cp=True).with_cp is True
    calls: Counter[nn.Module] = Counter()
    for module in backbone.modules():
        module.register_forward_pre_hook(lambda module, _: calls.update([module]))
    backbone(torch.randn(2, 3, 64, 64))[0].sum().backward()
    stages = [module for module in backbone.modules() if isinstance(module, Stage)]
    assert len(stages) == (5 if family.type == 'SANACmix' else 4)  # its stem is one
    for stage in stages:
        assert calls[stage] == 1
        for block in getattr(stage, 'blocks', stage):
            assert calls[block] == (1 if isinstance(block, nn.AvgPool2d) else 2)


def test_checkpointing_takes_the_references_way_again_if_forward_did() -> None:
    (family,) = (family for family in FAMILIES if family.type == 'CMT')
    backbone = family(with_cp=True)
    ways: list[bool] = []
    for block in blocks(backbone):
        block.register_forward_pre_hook(lambda *_: ways.append(reference_forced()))
    with force_reference():
        loss = backbone(torch.randn(2, 3, 64, 64))[0].sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert ways == [True] * (3 * len(blocks(backbone)))
    assert not reference_forced()


@every_family
def test_hooks_on_stages_and_blocks_can_replace_what_they_compute(family: Family) -> None:
    backbone = family().eval()
    x = torch.randn(2, 3, 64, 64)
    (expected,) = backbone(x)
    for module in (backbone.stem, *backbone.stages, *blocks(backbone)):
        hook = module.register_forward_hook(lambda _, args, out: 2 * out)
        (changed,) = backbone(x)
        hook.remove()
        assert not torch.equal(changed, expected)


@every_family
def test_full_backward_hooks_on_stages_and_blocks_see_gradients(family: Family) -> None:
    backbone = family()
    seen: Counter[nn.Module] = Counter()
    parts = [*backbone.stages, *blocks(backbone)]
    for part in parts:
        part.register_full_backward_hook(lambda module, *_: seen.update([module]))
    backbone(torch.randn(2, 3, 64, 64))[0].sum().backward()
    assert seen == Counter(parts)


@pytest.mark.parametrize(
    'training', [False, pytest.param(True, marks=pytest.mark.slow)], ids=['eval', 'train']
)
# ConTNet's two kinds of downsampling have the same layers.
@pytest.mark.parametrize('family', FAMILIES[1:], ids=lambda family: family.type)
def test_what_replaces_a_module_is_called(family: Family, training: bool) -> None:
    backbone = family(out_indices=ALL)
    # Every stage has several keys: over one, softmax makes nothing of queries and keys.
    x = torch.randn(2, 3, 64, 64)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            # With a bias of 1 and the statistics of x no ReLU gives 0 everywhere, which would hide
            # what comes before it.
            nn.init.ones_(module.bias)
            module.momentum = None
    backbone(x)
    backbone.train(training)
    kinds = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    layers = 0
    ignored = []
    with torch.set_grad_enabled(training):
        plain = backbone(x)
        # The same to the last bit every time, so that one that differs tells of a change.
        assert all(map(torch.equal, backbone(x), plain))
        for name, module in list(backbone.named_modules()):
            # Lists are not called, and of Swin's stages the backbone reads the norm.
            if not name or isinstance(module, (nn.ModuleList, SwinACmixStage)):
                continue
            with wrapped(backbone, name, factor=1) as wrapper:
                expected = backbone(x)
                torch.testing.assert_close(expected, plain, rtol=1e-3, atol=1e-4)
                called = wrapper.calls > 0
                if isinstance(module, kinds):
                    layers += 1
                    wrapper.factor = 2
                    # By the last bits, where a norm behind the layer divides by the scale.
                    called = called and not all(map(torch.equal, backbone(x), expected))
            if not called:
                ignored.append(name)
    assert layers > 20
    assert ignored == []


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@every_family
def test_the_meta_device_computes_shapes(family: Family, training: bool) -> None:
    with torch.device('meta'):
        backbone = family(out_indices=ALL).train(training)
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                outs = backbone(torch.empty(2, 3, 70, 50))
            for out, channels, stride in zip(outs, family.channels, family.strides, strict=True):
                assert out.is_meta
                assert out.shape == (2, channels, -(-70 // stride), -(-50 // stride))
        sum(out.sum() for out in outs).backward()


@every_family
def test_torchvision_extracts_features_of_stages_as_a_whole(family: Family) -> None:
    """Within a stage torch.fx cannot trace: padding depends on the size of the map."""
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    backbone = family().eval()
    leaves = [type(module) for module in (backbone.stem, *backbone.stages)]
    nodes = {f'stages.{i}': str(i) for i in ALL}
    extract = extraction.create_feature_extractor(
        backbone, nodes, tracer_kwargs=dict(leaf_modules=leaves)
    )
    x = torch.randn(1, 3, 70, 50)
    maps = extract(x)
    x = backbone.stem(x.contiguous(memory_format=torch.channels_last))
    for i, stage in enumerate(backbone.stages):
        x = stage(x)
        # A name stands for the last that is computed under it, of Swin's outputs the norm.
        expected = x if getattr(stage, 'norm', None) is None else stage.norm(x)
        torch.testing.assert_close(maps[str(i)], expected)


@every_family
def test_shared_arguments_are_part_of_the_signature(family: Family) -> None:
    backbone_class = getattr(backbones, family.type)

    class Mixin:
        pass

    class Own(Mixin, backbone_class):
        def __init__(self, width: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    ours, own = (inspect.signature(c).parameters for c in (backbone_class, Own))
    assert [*own] == ['width', *ours]
    assert own['with_cp'].default is own['norm_eval'].default is False
    assert own['out_indices'].default == (3,)
    assert not any(p.kind is p.VAR_KEYWORD for p in ours.values())
    with pytest.raises(TypeError, match="unexpected keyword argument 'widht'"):
        Own(3, **family.kwargs, widht=3)


@every_family
def test_errors_of_hooks_are_not_taken_for_those_of_batch_norm(family: Family) -> None:
    backbone = family()

    def refuse(*args: Any) -> None:
        raise ValueError('not mine')

    backbone.stem.register_forward_hook(refuse)
    with pytest.raises(ValueError, match='not mine'):
        backbone(torch.randn(1, 3, 64, 64))


@every_family
def test_bf16_autocast_is_finite(family: Family) -> None:
    backbone = getattr(backbones, family.type)(**family.real)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = backbone(torch.randn(2, 3, 64, 64))[0]
    out.float().square().mean().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


@every_family
def test_inputs_that_cannot_be_computed_are_refused(family: Family) -> None:
    for shape in ((3, 64, 64), (1, 4, 64, 64), (1, 3, 0, 64)):
        with pytest.raises(ValueError, match=r'takes images of shape \(B, 3, H, W\)'):
            family()(torch.randn(shape))


@pytest.mark.parametrize(
    'family', [family for family in FAMILIES if 'ACmix' in family.type], ids=lambda f: f.type
)
def test_blocks_of_acmix_combine_their_paths_and_start_shifts_as_they_are_told(
    family: Family,
) -> None:
    for combine in COMBINATIONS:
        sums = [m for m in family(combine=combine).modules() if isinstance(m, PathSum)]
        assert len(sums) >= 5 and {module.combine for module in sums} == {combine}
    for shift_init in SHIFT_INITS:
        modules = family(shift_init=shift_init).modules()
        weights = [m.shift.weight for m in modules if isinstance(m, ConvolutionPath)]
        assert len(weights) >= 5
        for weight in weights:
            assert weight.requires_grad == (shift_init != 'fixed')
            shifts = torch.eye(9).view(9, 3, 3).expand_as(weight)
            assert torch.equal(weight, shifts) == (shift_init != 'random')
    for option in ('combine', 'shift_init'):
        with pytest.raises(ValueError, match=f"{option} must be one of '.*', .* got 'mean'"):
            family(**{option: 'mean'})


@every_family
def test_other_numbers_of_input_channels_work(family: Family) -> None:
    (out,) = family(in_channels=1)(torch.randn(2, 1, 64, 64))
    assert out.shape == (2, family.channels[3], 2, 2)


@every_family
def test_parameters_lie_the_deeper_the_later_their_block(family: Family) -> None:
    backbone = family(out_indices=ALL)
    layers = 2 + sum(family.kwargs['arch']['depths'])
    depths = {
        name: backbone.get_layer_depth(f'net.{name}', 'net.')
        for name, _ in backbone.named_parameters()
    }
    assert {total for _, total in depths.values()} == {layers}
    found = [depth for depth, _ in depths.values()]
    assert found == sorted(found)
    assert set(range(layers - 1)) <= set(found)  # norms after the last block are the head's
    assert all((depth == 0) is name.startswith('stem.') for name, (depth, _) in depths.items())
    assert backbone.get_layer_depth('head.fc.weight', 'net.') == (layers - 1, layers)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='xxl'), r"no arch 'xxl'; choose from \['"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), 'a dict with the fields'),
        (dict(arch=3), 'must be one of'),
        (dict(out_indices=(4,)), r'out_indices must be .* got \(4,\)'),
        (dict(out_indices=()), 'out_indices must be'),
        (dict(out_indices=(3, -1)), 'names a stage twice'),
        (dict(frozen_stages=5), r'frozen_stages must be in -1\.\.4, got 5'),
        (dict(in_channels=0), 'in_channels must be a positive int'),
        (dict(depths=(1, 1, 1)), r'depths of an arch must have 4 values, got \(1, 1, 1\)'),
        (dict(depths=5), 'must have 4 values'),
        (dict(depths=(1, 1.5, 1, 1)), 'must be positive'),
    ],
)
@every_family
def test_bad_arguments_are_named(family: Family, kwargs: dict, message: str) -> None:
    if 'depths' in kwargs:
        kwargs = dict(arch={**family.kwargs['arch'], **kwargs})
    with pytest.raises(ValueError, match=message):
        family(**kwargs)


UNEVEN = {**SWIN_ACMIX, 'num_heads': (3, 2, 3, 4)}


@pytest.mark.parametrize(
    ('name', 'kwargs', 'message'),
    [
        ('CMT', dict(img_size=200), 'img_size must be a positive multiple of 32, got 200'),
        ('CMT', dict(bias_resize='bilinear'), "one of 'spatial', 'matrix', got 'bilinear'"),
        ('ConTNet', dict(downsample='max'), "must be one of 'conv', 'pool', got 'max'"),
        ('ConTNet', dict(patch_sizes=(7, 14, 7, 7)), 'patch_sizes must be 4 pairs'),
        ('ConTNet', dict(patch_sizes=((7, 14, 7),) * 4), 'patch_sizes must be 4 pairs'),
        ('ConTNet', dict(patch_sizes=((0, 7),) * 4), 'patch_sizes must be 4 pairs'),
        ('ConTNet', dict(patch_sizes=((7, 10),) * 4), 'one must divide the other'),
        ('ConTNet', dict(output_stride=16), "with downsample='conv' must be one of 32, got 16"),
        ('ConTNet', dict(output_stride=4, downsample='pool'), 'one of 32, 16, 8, got 4'),
        ('ConTNet', dict(pos_encoding='3d'), "one of 'none', '1d', '2d', 'relative', got '3d'"),
        ('ConTNet', dict(pos_placement='window'), "one of 'patch', 'image', got 'window'"),
        ('ConTNet', dict(pos_placement='image', pos_encoding='relative'), 'has no meaning'),
        ('ConTNet', dict(pos_placement='image', pos_encoding='none'), "with pos_encoding='none'"),
        ('ConTNet', dict(conv_groups=3), r"'depthwise' or .* of \(64, 128, 256, 512\), got 3"),
        ('ConTNet', dict(conv_groups='dw'), 'common divisor'),
        ('CoTNet', dict(context='both'), "'full', 'linear', 'dynamic', 'static', got 'both'"),
        ('CoTNet', dict(cot_stages=(4,)), r'cot_stages must be stages in 0\.\.3, got \(4,\)'),
        ('ResNetACmix', dict(kernel_att=4), 'kernel_att must be a positive odd number, got 4'),
        ('ResNetACmix', dict(num_heads=5), 'num_heads must divide the .* channels, got 5'),
        ('SwinACmix', dict(window_size=0), 'window_size must be a positive int, got 0'),
        ('SwinACmix', dict(arch=UNEVEN), 'num_heads must divide embed_dims 8, got 3'),
    ],
)
def test_bad_arguments_of_a_family_are_named(name: str, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(backbones, name)(**kwargs)


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@every_family
def test_cuda_agrees_with_cpu(family: Family, dtype: torch.dtype) -> None:
    backbone = getattr(backbones, family.type)(**family.real, out_indices=ALL).eval()
    x = torch.randn(2, 3, 230, 222)
    half = dtype != torch.float32
    with torch.no_grad():
        expected = copy.deepcopy(backbone).double()(x.double())
        with torch.autocast('cpu', dtype=dtype if half else torch.bfloat16, enabled=half):
            on_cpu = backbone(x)
        with torch.autocast('cuda', dtype=dtype, enabled=half):
            actual = backbone.cuda()(x.cuda())
    tolerance, compared = 5e-2 if half else 1e-3, 0
    for a, c, e in zip(actual, on_cpu, expected, strict=True):
        allowed = tolerance * e.abs().max()
        if family.type == 'CoTNet':
            # With random weights its values grow to 1e7, beyond fp16, and errors with them.
            allowed = torch.maximum(allowed, 3 * (c - e).abs().max())
        if allowed.isfinite():
            compared += 1
            assert (a.double().cpu() - e).abs().max() < allowed
    assert compared >= 2
