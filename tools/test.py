"""Test a detector (mAP), a segmenter (mIoU) or a classifier (accuracy)."""

import argparse
import os
import sys
from copy import deepcopy

from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

from mmcontnet.analysis.onnx_model import check_onnx, is_onnx, use_onnx
from mmcontnet.builders import build_model
from mmcontnet.checkpoint import load_checkpoint, read_weights
from mmcontnet.engine import (
    check_components,
    check_data,
    check_model,
    check_problem,
    import_datasets,
    is_first_process,
    load_config,
    parse_run_args,
    runner_of,
)
from mmcontnet.errors import UserError, WeightMismatchError, exit_on_user_error
from mmcontnet.output import check_out


def parse_args() -> argparse.Namespace:
    """Read the command line; the options are mmdet's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file, or .onnx file of tools/export_onnx.py')
    parser.add_argument(
        '--out',
        help='write the predictions: a .pkl file, or for segmenters a folder of label maps',
    )
    parser.add_argument('--show-dir', help='folder for pictures of the predictions')
    parser.add_argument(
        '--allow-missing',
        action='store_true',
        help='test even if weights in the checkpoint do not fit (they stay random), or hold NaN',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    return parse_run_args(parser)


def draw_into(cfg: Config, folder: str) -> None:
    """Have the scope's visualisation hook write pictures into ``folder``."""
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise UserError('--show-dir needs default_hooks.visualization in the config')
    folder = os.path.abspath(folder)
    if cfg.get('default_scope') == 'mmpretrain':
        hook.update(enable=True, out_dir=folder, interval=1)
    elif cfg.get('default_scope') == 'mmseg':
        if 'visualizer' not in cfg:
            raise UserError('--show-dir needs a visualizer in the config')
        hook.update(draw=True)
        cfg.visualizer.save_dir = folder
    else:
        hook.update(draw=True, test_out_dir=folder)


def use_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation: the config's, or flips where it has none."""
    defaults = {
        'mmdet': dict(
            type='DetTTAModel',
            tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
        ),
        'mmseg': dict(type='SegTTAModel'),
        'mmpretrain': dict(type='AverageClsScoreTTA'),
    }
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    wrapper = cfg.get('tta_model') or defaults.get(cfg.get('default_scope'))
    if wrapper is None or 'pipeline' not in dataset:
        raise UserError('--tta needs a tta_model in the config and one test data set')
    if 'tta_pipeline' not in cfg:
        pipeline = deepcopy(dataset.pipeline)
        pack = pipeline.pop()
        # Merging needs to know how each copy was flipped.
        keys = ('img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        pack.meta_keys = ('img_id', *keys) if cfg.get('default_scope') == 'mmdet' else keys
        flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
        pipeline.append(dict(type='TestTimeAug', transforms=[flips, [pack]]))
        cfg.tta_pipeline = pipeline
    cfg.model = ConfigDict(**wrapper, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def read_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the options that change it."""
    cfg = load_config(args.config, args.cfg_options, work_dir=args.work_dir, launcher=args.launcher)
    import_datasets(cfg)
    cfg.load_from = None if is_onnx(args.checkpoint) else args.checkpoint
    # The checkpoint holds all weights: those of ImageNet need not be there any more.
    if isinstance(backbone := (cfg.get('model') or {}).get('backbone'), dict):
        backbone.pop('init_cfg', None)
    return cfg


def check(cfg: Config, args: argparse.Namespace) -> list[str]:
    """Check everything that can be checked before testing, once; the data on each node.

    Returns:
        Warnings for the log.
    """
    if not is_first_process(args.launcher):
        if is_first_process(args.launcher, on_node=True):
            check_data(cfg, ['test'])
        return []
    model, scope, meta = check_model(cfg), cfg.get('default_scope'), None
    if is_onnx(args.checkpoint):
        if args.tta or args.allow_missing or args.launcher != 'none':
            raise UserError(
                'an .onnx file is tested by one process, without --tta and --allow-missing'
            )
        meta = check_onnx(cfg, model, args.checkpoint)['dataset_meta']
    elif args.allow_missing:
        read_weights(args.checkpoint)
    else:
        try:
            load_checkpoint(model, args.checkpoint)
        except WeightMismatchError as error:
            raise UserError(f'{error}; --allow-missing tests nevertheless') from error
    check_data(cfg, ['test'])
    if args.out:
        check_out(args.out, None if scope == 'mmseg' else ('.pkl', '.pickle'))
    if args.show_dir:
        check_out(args.show_dir, option='--show-dir')
    check_out(cfg.work_dir, option='work_dir')
    if args.show_dir and args.tta and scope == 'mmpretrain':
        raise UserError('mmpretrain cannot draw pictures under test-time augmentation')
    warnings = check_problem(cfg, model, ['test'], args.checkpoint, meta)
    if warnings and args.check_only:
        print(*warnings, sep='\n', file=sys.stderr)
    return warnings


def write_predictions(cfg: Config, runner: Runner, out: str) -> None:
    """Have the runner write the predictions of a detector or a classifier into a .pkl file."""
    dump = DumpResults
    if cfg.get('default_scope') == 'mmdet':
        # Masks are encoded, not written pixel by pixel.
        from mmdet.evaluation import DumpDetResults as dump
    runner.test_evaluator.metrics.append(dump(out_file_path=out))


def main() -> None:
    """Check everything that can be checked, then test."""
    args = parse_args()
    silent = not is_first_process(args.launcher, on_node=True)
    with exit_on_user_error('test.py', silent=silent):
        cfg = read_config(args)
        scope = cfg.get('default_scope')
        if args.show_dir:
            draw_into(cfg, args.show_dir)
        warnings = check(cfg, args)
        if args.out and scope == 'mmseg':
            metrics = cfg.test_evaluator
            for metric in metrics if isinstance(metrics, list) else [metrics]:
                metric.update(output_dir=args.out, keep_results=True)
        if args.tta:
            use_tta(cfg)
            build_model(cfg, meta=True)
        if is_first_process(args.launcher):
            check_components(cfg, ['test'])
        if is_onnx(args.checkpoint):
            use_onnx(cfg, args.checkpoint)
    if args.check_only:
        if is_first_process(args.launcher):
            print(f'no mistakes found in {args.config}')
        return
    with exit_on_user_error('test.py'), runner_of(cfg, warnings=warnings) as runner:
        if args.out and scope != 'mmseg':
            write_predictions(cfg, runner, args.out)
        runner.test()


if __name__ == '__main__':
    main()
