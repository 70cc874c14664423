"""The project's configs at the size of a test: narrow network, small images, few iterations."""

from pathlib import Path
from textwrap import dedent

from ..families import CONTNET
from .cli import ROOT

ARCH = {**CONTNET, 'depths': (1, 1, 1, 1)}


def write_detector(folder: Path) -> Path:
    """Write a small RetinaNet over data/coco: the paper's config, five iterations an epoch."""
    path = folder / 'retinanet.py'
    path.write_text(
        dedent(
            f"""
            _base_ = {str(ROOT / 'configs/retinanet_cont_m_fpn_1x_coco.py')!r}
            model = dict(
                backbone=dict(init_cfg=None, frozen_stages=-1, norm_eval=False,
                              arch=dict(_delete_=True, **{ARCH!r})),
                neck=dict(in_channels=[32, 64, 128], out_channels=32),
                bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1),
                test_cfg=dict(score_thr=0.0, max_per_img=10),
            )
            resize = dict(type='Resize', scale=(168, 98), keep_ratio=True)
            train_pipeline = [
                dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
                resize, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
            test_pipeline = [
                dict(type='LoadImageFromFile'), resize,
                dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
            tta_pipeline = [
                dict(type='LoadImageFromFile'),
                dict(type='TestTimeAug', transforms=[
                    [dict(type='Resize', scale=s, keep_ratio=True) for s in ((168, 98), (84, 49))],
                    [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)],
                    [dict(type='LoadAnnotations', with_bbox=True)],
                    [dict(type='PackDetInputs', meta_keys=(
                        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
                        'flip_direction'))]])]
            train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False,
                                    dataset=dict(pipeline=train_pipeline))
            val_dataloader = dict(num_workers=0, persistent_workers=False,
                                  dataset=dict(pipeline=test_pipeline))
            test_dataloader = val_dataloader
            train_cfg = dict(max_epochs=1)
            default_hooks = dict(logger=dict(interval=1))
            randomness = dict(seed=0)
            """
        )
    )
    return path


def write_tiny(folder: Path) -> Path:
    """Write a training of one number, three epochs of two iterations, without any data."""
    from .killer import config_of

    cfg = config_of(folder / 'work', 'epochs')
    cfg.custom_imports = dict(imports=['tests.integration.killer'])
    cfg.log_level = 'INFO'
    cfg.dump(folder / 'tiny.py')
    return folder / 'tiny.py'


def write_segmenter(folder: Path) -> Path:
    """Write a small FCN over data/labels."""
    path = folder / 'fcn.py'
    path.write_text(
        dedent(
            f"""
            default_scope = 'mmseg'
            custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
            model = dict(
                type='EncoderDecoder',
                data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
                backbone=dict(type='ConTNet', downsample='pool', out_indices=(2,), arch={ARCH!r}),
                decode_head=dict(type='FCNHead', in_channels=64, in_index=0, channels=16,
                                 num_convs=1, num_classes=2,
                                 loss_decode=dict(type='CrossEntropyLoss')),
                test_cfg=dict(mode='whole'),
            )
            load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
            dataset = dict(
                type='BaseSegDataset', data_root='data/labels', img_suffix='.jpg',
                data_prefix=dict(img_path='img', seg_map_path='ann'),
                metainfo=dict(classes=('ground', 'thing'), palette=[[0, 0, 0], [255, 0, 0]]),
            )
            train_dataloader = dict(
                batch_size=2, num_workers=0,
                sampler=dict(type='InfiniteSampler', shuffle=True),
                dataset=dict(**dataset, pipeline=[
                    *load, dict(type='RandomCrop', crop_size=(64, 64)),
                    dict(type='PackSegInputs')]),
            )
            test_dataloader = dict(
                batch_size=1, num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(**dataset, pipeline=[
                    load[0], dict(type='Resize', scale=(64, 64)), load[1],
                    dict(type='PackSegInputs')]),
            )
            val_dataloader = test_dataloader
            val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
            test_evaluator = val_evaluator
            train_cfg = dict(type='IterBasedTrainLoop', max_iters=3, val_interval=3)
            val_cfg = dict(type='ValLoop')
            test_cfg = dict(type='TestLoop')
            optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
            default_hooks = dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3),
                visualization=dict(type='SegVisualizationHook'))
            log_processor = dict(by_epoch=False)
            visualizer = dict(type='SegLocalVisualizer', name='visualizer',
                              vis_backends=[dict(type='LocalVisBackend')])
            """
        )
    )
    return path


def write_classifier(folder: Path) -> Path:
    """Write a small ImageNet classifier over data/imagenet: the paper's recipe, one epoch."""
    path = folder / 'classifier.py'
    path.write_text(
        dedent(
            f"""
            _base_ = {str(ROOT / 'configs/cont_m_8xb64_in1k.py')!r}
            model = dict(
                backbone=dict(arch=dict(_delete_=True, **{ARCH!r})),
                head=dict(in_channels=128, num_classes=2, topk=1),
                data_preprocessor=dict(num_classes=2),
            )
            train_dataloader = dict(batch_size=2, num_workers=0,
                                    dataset=dict(split='train', classes=('a', 'b')))
            val_dataloader = dict(batch_size=2, num_workers=0,
                                  dataset=dict(split='val', classes=('a', 'b')))
            test_dataloader = dict(batch_size=2, num_workers=0,
                                  dataset=dict(split='val', classes=('a', 'b')))
            val_evaluator = dict(topk=1)
            test_evaluator = dict(topk=1)
            train_cfg = dict(max_epochs=1)
            default_hooks = dict(logger=dict(interval=1))
            """
        )
    )
    return path


_FEW_BOXES = dict(score_thr=0.0, max_per_img=10)


def _mask_rcnn(num_classes: int) -> dict:
    """Return what the narrow network changes in a Mask R-CNN."""
    bbox_head = dict(in_channels=32, fc_out_channels=32, num_classes=num_classes)
    mask_head = dict(num_convs=1, in_channels=32, conv_out_channels=32, num_classes=num_classes)
    extractor = dict(out_channels=32)
    return dict(
        neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
        rpn_head=dict(in_channels=32, feat_channels=32),
        roi_head=dict(
            bbox_roi_extractor=extractor,
            bbox_head=bbox_head,
            mask_roi_extractor=extractor,
            mask_head=mask_head,
        ),
        test_cfg=dict(rcnn=_FEW_BOXES),
    )


NARROW_MODELS = {
    'mask_rcnn_cont_m_fpn_1x_coco.py': _mask_rcnn(num_classes=1),
    'mask_rcnn_cont_m_fpn_1x_cityscapes.py': _mask_rcnn(num_classes=8),
    'fcos_cont_m_fpn_1x_coco.py': dict(
        neck=dict(in_channels=[32, 64, 128], out_channels=32),
        bbox_head=dict(in_channels=32, feat_channels=64, stacked_convs=1),
        test_cfg=_FEW_BOXES,
    ),
    # Those that docs/own_data.md shows.
    'crowns.py': dict(
        neck=dict(in_channels=[32, 64, 128], out_channels=32),
        bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1),
        test_cfg=_FEW_BOXES,
    ),
    'cells.py': dict(
        data_preprocessor=dict(size=(112, 112)),
        decode_head=dict(in_channels=128, channels=16),
        auxiliary_head=dict(in_channels=64, channels=16),
        test_cfg=dict(crop_size=(112, 112), stride=(80, 80)),
    ),
}


def write_narrow(folder: Path, config: str) -> Path:
    """Write a config with a narrow network and small images over the folder's, or the project's."""
    base = folder / config if (folder / config).exists() else ROOT / 'configs' / config
    path = folder / f'narrow_{config}'
    path.write_text(
        dedent(
            f"""
            _base_ = {str(base)!r}
            model = dict(
                backbone=dict(init_cfg=None, frozen_stages=-1, norm_eval=False,
                              arch=dict(_delete_=True, **{ARCH!r})),
                **{NARROW_MODELS[config]!r})
            train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
            for step in [*train_pipeline, *test_pipeline]:
                if 'scale' in step:
                    step.pop('ratio_range', None)
                    step.update(type='Resize', scale=(224, 112))
                if 'crop_size' in step:
                    step.update(crop_size=(112, 112))
            train_dataloader, val_dataloader = _base_.train_dataloader, _base_.val_dataloader
            for loader in (train_dataloader, val_dataloader):
                loader.update(num_workers=0, persistent_workers=False)
            if 'times' in train_dataloader['dataset']:
                train_dataloader['dataset'].update(times=1)
                train_dataloader['dataset']['dataset'].update(pipeline=train_pipeline)
            else:
                train_dataloader['dataset'].update(pipeline=train_pipeline)
            val_dataloader['dataset'].update(pipeline=test_pipeline)
            test_dataloader = val_dataloader
            train_cfg = dict(max_iters=3) if 'max_iters' in _base_.train_cfg else dict(max_epochs=1)
            default_hooks = dict(logger=dict(interval=1))
            randomness = dict(seed=0)
            del step, loader
            """
        )
    )
    return path
