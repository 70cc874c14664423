"""What the checks refuse is in tests/integration/test_mistakes.py; here, what they must not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS

from mmcontnet import backbones
from mmcontnet.backbones import CMT, ConTNet, SwinACmix
from mmcontnet.backbones.base import HybridBackbone
from mmcontnet.checkpoint import safe_loading
from mmcontnet.engine import check_data, check_load_from, check_model, load_config
from mmcontnet.errors import UserError, WeightMismatchError

from .. import families

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    'base',
    [
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
        'mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py',
        'mmdet::dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
        'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
        'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        'mmpretrain::resnet/resnet18_8xb16_cifar10.py',
    ],
)
def test_stock_configs_are_accepted_but_for_their_data(base: str, tmp_path: Path) -> None:
    (tmp_path / 'config.py').write_text(f'_base_ = {base!r}\n')
    cfg = load_config(str(tmp_path / 'config.py'))
    check_model(cfg)
    if 'cifar' in base:  # downloads its data by itself
        check_data(cfg, ['train', 'val'])
    else:
        with pytest.raises(UserError, match='train_dataloader: data_root .* not found'):
            check_data(cfg, ['train', 'val'])


def test_mmsegs_own_configs_are_found() -> None:
    cfg = load_config('mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py')
    assert cfg.model.decode_head.type == 'PSPHead'
    with pytest.raises(UserError, match=r"config '.*none\.py' not found"):
        load_config('mmseg::none.py')


def pretrained(path: Path, arch: str = 's') -> Config:
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    return Config(dict(model=dict(backbone=dict(type='ConTNet', arch=arch, init_cfg=init_cfg))))


@pytest.mark.parametrize(
    'form', ['converted', 'from training', 'legacy', 'wrapped', 'wrapped whole']
)
def test_weights_that_fit_are_accepted_in_every_form(form: str, tmp_path: Path) -> None:
    prefix = {'wrapped': 'module.', 'wrapped whole': 'module.backbone.'}.get(form, 'backbone.')
    state = ConTNet('s').state_dict()
    content: dict[str, Any] = {'state_dict': {prefix + k: v for k, v in state.items()}}
    if form == 'from training':
        content['message_hub'] = {'log_scalars': {'loss': HistoryBuffer()}}
    path = tmp_path / 'weights.pth'
    torch.save(content, path, _use_new_zipfile_serialization=form != 'legacy')
    cfg = pretrained(path)
    if form == 'wrapped':
        del cfg.model.backbone.init_cfg.prefix
    check_model(cfg)
    # And mmengine loads them.
    with safe_loading():
        backbone = MODELS.build(cfg.model.backbone)
        backbone.init_weights()
    torch.testing.assert_close(backbone.state_dict(), state, rtol=0, atol=0)
    cfg.model.backbone.init_cfg.prefix = 'head.'
    with pytest.raises(UserError, match=r"with prefix 'head\.' .* does not fit: "):
        check_model(cfg)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({3: torch.ones(2)}, 'a key of type int'),
        (torch.ones(2), 'holds a Tensor instead of tensors with names'),
    ],
    ids=['numbered', 'tensor'],
)
def test_files_without_tensors_of_the_backbone_are_refused(
    content: Any, message: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / 'weights.pth')
    with pytest.raises(UserError, match=rf"weights\.pth' .*{message}"):
        check_model(pretrained(tmp_path / 'weights.pth'))


def test_weights_of_another_arch_are_refused(tmp_path: Path) -> None:
    state = {f'backbone.{k}': v for k, v in ConTNet('ti').state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'ti.pth')
    with pytest.raises(UserError, match='does not fit: .* of ConTNet .* another shape'):
        check_model(pretrained(tmp_path / 'ti.pth'))


@pytest.mark.parametrize('family', ['CMT', 'ResNetACmix', 'SwinACmix'])
def test_weights_of_a_deeper_arch_are_refused_but_not_stages_that_are_not_needed(
    family: str, tmp_path: Path
) -> None:
    arch = next(f.kwargs['arch'] for f in families.FAMILIES if f.type == family)
    deeper = dict(arch, depths=(2, *arch['depths'][1:]))
    shallow = dict(arch, depths=(1, *arch['depths'][1:]))
    backbone = getattr(backbones, family)(deeper, out_indices=(1, 2, 3))
    state = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'deep.pth')
    cfg = pretrained(tmp_path / 'deep.pth')
    cfg.model.backbone.update(type=family, arch=deeper, out_indices=(1,))
    check_model(cfg)
    cfg.model.backbone.arch = shallow
    with pytest.raises(UserError, match=r"deep\.pth' .*is of a deeper network: .*stages\.0.*\.1,"):
        check_model(cfg)


def test_weights_that_are_adapted_when_loaded_are_accepted(tmp_path: Path) -> None:
    state = {f'backbone.{k}': v for k, v in CMT(families.CMT).state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'cmt.pth')
    cfg = pretrained(tmp_path / 'cmt.pth')
    cfg.model.backbone.update(type='CMT', arch=families.CMT, img_size=96)
    check_model(cfg)
    tables = [f'backbone.stages.{stage}.position_bias.table' for stage in (1, 2)]
    for i, table in enumerate(tables):
        state[table] = state[table][:, :-1]
        torch.save({'state_dict': state}, tmp_path / 'cmt.pth')
        message = rf'{i + 1} of \d+ tensors .*stages\.1\.position_bias\.table'
        with pytest.raises(UserError, match=message):
            check_model(cfg)
    # Nor do they start at random where nobody checks.
    with pytest.raises(WeightMismatchError, match=r'^stages\.1\.position_bias\.table of shape'):
        CMT(families.CMT, init_cfg=cfg.model.backbone.init_cfg).init_weights()
    for table in tables:
        del state[table]
    torch.save({'state_dict': state}, tmp_path / 'cmt.pth')
    with pytest.raises(UserError, match=r'2 of \d+ tensors .*stages\.1\.position_bias\.table'):
        check_model(cfg)


def test_weights_of_a_classifier_may_lack_the_norms_of_other_outputs(
    tmp_path: Path,
) -> None:
    state = {f'backbone.{k}': v for k, v in SwinACmix(families.SWIN_ACMIX).state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'swin.pth')
    cfg = pretrained(tmp_path / 'swin.pth')
    cfg.model.backbone.update(type='SwinACmix', arch=families.SWIN_ACMIX, out_indices=families.ALL)
    check_model(cfg)
    # The last stage's is in all of them, and what has another shape is still found.
    del state['backbone.stages.3.norm.bias']
    state['backbone.stages.2.norm.weight'] = torch.ones(7)
    state['backbone.stages.2.norm.bias'] = torch.ones(24)
    torch.save({'state_dict': state}, tmp_path / 'swin.pth')
    with pytest.raises(
        UserError, match=r'2 of \d+ tensors .*stages\.2\.norm\.weight, stages\.3\.norm\.bias'
    ):
        check_model(cfg)


def test_a_missing_folder_in_a_wrapper_is_named_with_its_key() -> None:
    inner = dict(type='CocoDataset', data_root='nowhere/')
    dataset = dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=inner)])
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    key = 'train_dataloader.dataset.datasets.0.dataset.data_root='
    with pytest.raises(UserError, match=key):
        check_data(cfg, ['train'])


def test_data_of_other_backends_are_left_to_them() -> None:
    inner = dict(type='CocoDataset', data_root='nowhere/', backend_args=dict(backend='petrel'))
    check_data(Config(dict(train_dataloader=dict(dataset=inner))), ['train'])
    listed = dict(type='CocoDataset', ann_file=['a.json', 'b.json'])
    check_data(Config(dict(train_dataloader=dict(dataset=listed))), ['train'])


def test_a_model_without_a_backbone_is_left_alone() -> None:
    check_model(Config(dict(model=dict(type='Anything'))))
    check_model(Config(dict(model=dict(backbone=dict(type=ConTNet, arch='s')))))


@MODELS.register_module()
class Defective(HybridBackbone):
    """Raises what a defect of a constructor would."""

    def __init__(self, error: type[Exception], with_cp: bool = False) -> None:
        raise error('from within')


def test_a_defect_of_ours_is_not_reported_as_a_mistake_of_the_users() -> None:
    config = dict(type='Defective', error=ValueError)
    with pytest.raises(UserError, match=r'^model\.backbone: from within$'):
        check_model(Config(dict(model=dict(backbone=config))))
    for error in (TypeError, AttributeError, KeyError, RuntimeError):
        with pytest.raises(error, match='from within'):
            check_model(Config(dict(model=dict(backbone={**config, 'error': error}))))


def test_wrong_arguments_are_named() -> None:
    config = dict(type='Defective', with_cp=True)
    with pytest.raises(UserError, match=r'^model\.backbone: Defective needs error$'):
        check_model(Config(dict(model=dict(backbone=config))))
    config = dict(type='Defective', error=TypeError, depth=5)
    with pytest.raises(UserError, match=r'has no argument depth; it takes error, with_cp$'):
        check_model(Config(dict(model=dict(backbone=config))))


def test_a_start_from_weights_needs_those_of_the_backbone(tmp_path: Path) -> None:
    cfg = load_config(str(ROOT / 'configs/cont_s_8xb64_in1k.py'))
    cfg.load_from = str(tmp_path / 'start.pth')
    state = {f'backbone.{key}': value for key, value in ConTNet('s').state_dict().items()}
    torch.save({'state_dict': state}, cfg.load_from)
    (warning,) = check_load_from(cfg)
    assert 'no weights that fit 2 tensors of the model, which start at random: head.fc' in warning
    del state['backbone.stem.conv.weight']
    torch.save({'state_dict': state}, cfg.load_from)
    with pytest.raises(UserError, match=r'1 of \d+ tensors .*backbone\.stem\.conv\.weight'):
        check_load_from(cfg)
    assert check_load_from(cfg, allow_missing=True) == []
    cfg.load_from = ['a', 'b']
    with pytest.raises(UserError, match='load_from must be one file or URL'):
        check_load_from(cfg)
