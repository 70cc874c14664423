"""Training and testing on real data through the command lines, a few iterations each."""

import re
from pathlib import Path
from textwrap import dedent

import pytest

from mmcontnet.engine import load_config

from ..backbones import small
from .cli import ROOT, run
from .configs import write_digits_classifier, write_narrow, write_narrow_on

pytestmark = pytest.mark.slow


def train_and_test(config: Path, folder: Path) -> dict[str, float]:
    """Train with a config, test the last checkpoint, and return the metrics that were printed."""
    run('train.py', config, '--work-dir', 'work', cwd=folder)
    checkpoint = (folder / 'work/last_checkpoint').read_text()
    tested = run('test.py', config, checkpoint, '--work-dir', 'tested', cwd=folder)
    line = tested.stdout.strip().splitlines()[-1]
    return {name: float(value) for name, value in re.findall(r'(\S+): (-?\d+\.\d+)', line)}


@pytest.mark.parametrize('method', ['faster_rcnn', 'fcos'])
def test_a_detector_trains_and_is_tested_on_tree_crowns(method: str, folder: Path) -> None:
    config = f'{method}_cont_m_fpn_1x_coco.py'
    config = write_narrow_on(folder, config, 'data/tree_crowns', ('tree',))
    assert 0 <= train_and_test(config, folder)['coco/bbox_mAP'] <= 1


def test_mask_rcnn_trains_and_is_tested_on_nuclei_as_coco_lays_them_out(folder: Path) -> None:
    config = 'mask_rcnn_cont_m_fpn_1x_coco.py'
    config = write_narrow_on(folder, config, 'data/nuclei', ('nucleus',))
    metrics = train_and_test(config, folder)
    assert 0 <= metrics['coco/bbox_mAP'] <= 1
    assert 0 <= metrics['coco/segm_mAP'] <= 1


def test_mask_rcnn_trains_and_is_tested_on_nuclei_as_cityscapes_lays_them_out(folder: Path) -> None:
    config = write_narrow(folder, 'mask_rcnn_cont_m_fpn_1x_cityscapes.py')
    metrics = train_and_test(config, folder)
    assert 0 <= metrics['coco/segm_mAP'] <= 1
    assert 0 <= metrics['cityscapes/mAP'] <= 1


def test_pspnet_trains_and_is_tested_on_nuclei_as_cityscapes_lays_them_out(folder: Path) -> None:
    config = write_narrow(folder, 'pspnet_cont_m_80k_cityscapes.py')
    assert 0 < train_and_test(config, folder)['mIoU'] <= 100


def test_a_classifier_trains_and_is_tested_on_digits(folder: Path) -> None:
    metrics = train_and_test(write_digits_classifier(folder), folder)
    assert 0 <= metrics['accuracy/top1'] <= 100


@pytest.mark.parametrize(
    ('config', 'backbone', 'channels'),
    [
        (
            'retinanet_cmt_ti_fpn_1000i_tree_crowns.py',
            dict(arch=dict(_delete_=True, **small.CMT)),
            [16, 32, 64],
        ),
        (
            'retinanet_cont_ti_fpn_1000i_tree_crowns.py',
            dict(_delete_=True, type='ResNetACmix', arch=small.RESNET_ACMIX, out_indices=(1, 2, 3)),
            [48, 64, 96],
        ),
    ],
)
def test_retinanet_trains_and_is_tested_on_tree_crowns(
    config: str, backbone: dict, channels: list[int], folder: Path
) -> None:
    narrow = folder / 'crowns.py'
    narrow.write_text(
        dedent(
            f"""
            _base_ = {str(ROOT / 'configs' / config)!r}
            model = dict(backbone={backbone!r},
                         neck=dict(in_channels={channels!r}),
                         test_cfg=dict(score_thr=0.0, max_per_img=10))
            train_cfg = dict(max_iters=3, val_interval=3)
            loader = dict(num_workers=0, persistent_workers=False)
            train_dataloader = loader
            val_dataloader = dict(**loader, dataset=dict(indices=4))
            test_dataloader = val_dataloader
            default_hooks = dict(checkpoint=dict(interval=3))
            """
        )
    )
    assert 0 <= train_and_test(narrow, folder)['coco/bbox_mAP'] <= 1


def test_a_narrow_cmt_tells_digits_apart_after_an_epoch(folder: Path) -> None:
    config = folder / 'digits.py'
    config.write_text(
        dedent(
            f"""
            _base_ = {str(ROOT / 'configs/cmt_ti_3e_digits.py')!r}
            model = dict(backbone=dict(arch=dict(_delete_=True, **{small.CMT!r})),
                         neck=dict(in_channels=64))
            train_cfg = dict(max_epochs=1)
            param_scheduler = dict(total_steps=1)
            """
        )
    )
    # Of 1,000 digits that it has not seen. One in ten would be chance.
    assert train_and_test(config, folder)['accuracy/top1'] > 50


def test_faster_rcnn_with_cotnet_trains_and_is_tested_on_tree_crowns_in_one_process(
    folder: Path,
) -> None:
    config = folder / 'crowns.py'
    config.write_text(
        dedent(
            f"""
            _base_ = {str(ROOT / 'configs/faster_rcnn_cotnet50_fpn_1x_coco.py')!r}
            model = dict(
                backbone=dict(init_cfg=None, frozen_stages=-1,
                              arch=dict(_delete_=True, **{small.COTNET!r})),
                neck=dict(in_channels=[32, 64, 96, 128], out_channels=32),
                rpn_head=dict(in_channels=32, feat_channels=32),
                roi_head=dict(
                    bbox_roi_extractor=dict(out_channels=32),
                    bbox_head=dict(in_channels=32, conv_out_channels=32, fc_out_channels=32,
                                   num_classes=1)),
                test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=10)))
            train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
            train_pipeline[2].update(scale=[(267, 128), (267, 160)])
            test_pipeline[1].update(scale=(267, 160))
            loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
            # Three images: one is left over from batches of two, and left out.
            data = dict(data_root='data/tree_crowns', metainfo=dict(classes=('tree',)), indices=3)
            train_dataloader = dict(**loader, batch_sampler=None, drop_last=True, dataset=dict(
                **data, ann_file='annotations/train.json', data_prefix=dict(img='train/'),
                pipeline=train_pipeline))
            val_dataloader = dict(**loader, dataset=dict(
                **data, ann_file='annotations/val.json', data_prefix=dict(img='val/'),
                pipeline=test_pipeline))
            test_dataloader = val_dataloader
            val_evaluator = dict(ann_file='data/tree_crowns/annotations/val.json')
            test_evaluator = val_evaluator
            train_cfg = dict(max_epochs=1)
            """
        )
    )
    # SyncBN, which the config asks for, needs several.
    assert load_config(str(config)).sync_bn == 'torch'
    assert 0 <= train_and_test(config, folder)['coco/bbox_mAP'] <= 1


def test_upernet_with_swin_acmix_trains_and_is_tested_on_nuclei(folder: Path) -> None:
    config = folder / 'nuclei.py'
    config.write_text(
        dedent(
            f"""
            _base_ = {str(ROOT / 'configs/upernet_swin_acmix_t_160k_ade20k.py')!r}
            model = dict(
                data_preprocessor=dict(size=(112, 112)),
                backbone=dict(init_cfg=None, arch=dict(_delete_=True, **{small.SWIN_ACMIX!r})),
                decode_head=dict(in_channels=[8, 16, 24, 32], channels=16, num_classes=2),
                auxiliary_head=dict(in_channels=24, channels=16, num_classes=2))
            dataset = dict(
                _delete_=True, type='CityscapesDataset', data_root='data/nuclei/cityscapes/',
                metainfo=dict(classes=('road', 'car'), palette=[[0, 0, 0], [255, 170, 0]]))
            load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
            pack = dict(type='PackSegInputs')
            loader = dict(num_workers=0, persistent_workers=False)
            train_dataloader = dict(**loader, dataset=dict(
                **dataset,
                data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
                pipeline=[*load, dict(type='RandomCrop', crop_size=(112, 112)), pack]))
            # Tiles of 256 x 128, which no window divides.
            val_dataloader = dict(**loader, dataset=dict(
                **dataset, data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
                pipeline=[*load, pack]))
            test_dataloader = val_dataloader
            param_scheduler = [dict(type='ConstantLR', factor=1.0)]
            train_cfg = dict(max_iters=3, val_interval=3)
            default_hooks = dict(checkpoint=dict(interval=3))
            """
        )
    )
    assert 0 < train_and_test(config, folder)['mIoU'] <= 100
