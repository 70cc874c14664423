"""Real data through the command lines: smoke tests of each task, and one network that learns."""

import hashlib
import re
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from PIL import Image

from .. import families
from .cli import ROOT, run
from .configs import write_narrow

pytestmark = pytest.mark.slow


def train_and_test(config: Path, folder: Path) -> dict[str, float]:
    """Train with a config, test the last checkpoint, and return the metrics that were printed."""
    run('train.py', config, '--work-dir', 'work', cwd=folder)
    checkpoint = (folder / 'work/last_checkpoint').read_text()
    tested = run('test.py', config, checkpoint, '--work-dir', 'tested', cwd=folder)
    line = tested.stdout.strip().splitlines()[-1]
    return {name: float(value) for name, value in re.findall(r'(\S+): (-?\d+\.\d+)', line)}


DIGESTS = {
    'tree_crowns': 'cce2a7f64df0d9f3b19a00135fc67234153034e29f929b2ac99b2d4874cac32c',
    'nuclei': 'bff08634c654b2fafc71a4de832e521581ab0b09e235696fe2c74aa03a29f92b',
    'digits': '5ab2835a2327bc84f771eb4fa596131bdfd49baf7b9d42a4a540c3e882919aae',
}


@pytest.mark.parametrize('name', DIGESTS)
def test_data_sets_are_those_that_were_measured_on(name: str, real_data: Path) -> None:
    content = hashlib.sha256()
    for path in sorted(path for path in (real_data / name).rglob('*') if path.is_file()):
        content.update(str(path.relative_to(real_data)).encode())
        # How pixels are compressed depends on Pillow.
        is_image = path.suffix == '.png'
        content.update(np.asarray(Image.open(path)).tobytes() if is_image else path.read_bytes())
    assert content.hexdigest() == DIGESTS[name]


def test_a_detector_with_sync_bn_trains_and_is_tested_in_one_process(folder: Path) -> None:
    config = folder / 'crowns.py'
    config.write_text(
        dedent(
            f"""
            _base_ = {str(ROOT / 'configs/retinanet_cmt_ti_fpn_1000i_tree_crowns.py')!r}
            model = dict(backbone=dict(arch=dict(_delete_=True, **{families.CMT!r})),
                         neck=dict(in_channels=[16, 32, 64]),
                         test_cfg=dict(score_thr=0.0, max_per_img=10))
            sync_bn = 'torch'  # several processes
            train_cfg = dict(max_iters=3, val_interval=3)
            loader = dict(num_workers=0, persistent_workers=False)
            train_dataloader = loader
            val_dataloader = dict(**loader, dataset=dict(indices=4))
            test_dataloader = val_dataloader
            default_hooks = dict(checkpoint=dict(interval=3))
            """
        )
    )
    assert {'coco/bbox_mAP', 'coco/bbox_mAP_50'} <= train_and_test(config, folder).keys()


def test_an_instance_segmenter_trains_and_is_tested(folder: Path) -> None:
    config = write_narrow(folder, 'mask_rcnn_cont_m_fpn_1x_cityscapes.py')
    metrics = train_and_test(config, folder).keys()
    assert {'coco/bbox_mAP', 'coco/segm_mAP', 'cityscapes/mAP'} <= metrics


def test_a_segmenter_trains_and_is_tested(folder: Path) -> None:
    config = write_narrow(folder, 'pspnet_cont_m_80k_cityscapes.py')
    assert train_and_test(config, folder)['mIoU'] > 0


def test_a_narrow_cmt_tells_digits_apart_after_an_epoch(folder: Path) -> None:
    config = folder / 'digits.py'
    config.write_text(
        dedent(
            f"""
            _base_ = {str(ROOT / 'configs/cmt_ti_3e_digits.py')!r}
            model = dict(backbone=dict(arch=dict(_delete_=True, **{families.CMT!r})),
                         neck=dict(in_channels=64))
            train_cfg = dict(max_epochs=1)
            param_scheduler = dict(total_steps=1)
            """
        )
    )
    # Of 1,000 digits that it has not seen. One in ten would be chance.
    assert train_and_test(config, folder)['accuracy/top1'] > 50
