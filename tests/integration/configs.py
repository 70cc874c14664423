"""The project's configs at the size of a test: narrow network, small images, few iterations."""

from pathlib import Path
from textwrap import dedent

from .cli import ROOT

ARCH = dict(
    embed_dims=(8, 16, 32, 64),
    num_heads=(1, 2, 4, 8),
    feedforward_channels=(16, 32, 32, 64),
    depths=(1, 1, 1, 1),
    drop_rates=(0.0, 0.0, 0.0, 0.0),
    out_drop_rate=0.0,
)


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
