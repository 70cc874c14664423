"""Real data through the command lines: smoke tests of each task, and one network that learns."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from PIL import Image

from .. import families
from .cli import ROOT, metrics, run
from .configs import ARCH, write_narrow

pytestmark = pytest.mark.slow


def train_and_test(config: Path, folder: Path) -> dict[str, float]:
    """Train with a config, test the last checkpoint, and return the metrics that were printed."""
    run('train.py', config, '--work-dir', 'work', cwd=folder)
    checkpoint = (folder / 'work/last_checkpoint').read_text()
    return metrics(run('test.py', config, checkpoint, '--work-dir', 'tested', cwd=folder))


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


@pytest.mark.parametrize(
    ('config', 'metric'), [('crowns.py', 'coco/bbox_mAP_50'), ('cells.py', 'mIoU')]
)
def test_the_examples_for_ones_own_data_are_checked_train_and_are_tested(
    config: str, metric: str, folder: Path
) -> None:
    (folder / 'configs').symlink_to(ROOT / 'configs')
    page = (ROOT / 'docs/own_data.md').read_text()
    for name, text in re.findall(r'```python\n# (\w+\.py)\n(.+?)```', page, re.DOTALL):
        (folder / name).write_text(text)
    if config == 'cells.py':
        subprocess.run([sys.executable, 'make_cells.py'], check=True, cwd=folder)
    # Also that the classes are those of the annotations, and that the heads have as many.
    scratch = ('--cfg-options', 'model.backbone.init_cfg=None')
    run('train.py', config, '--check-only', '--check-data', *scratch, cwd=folder)
    assert metric in train_and_test(write_narrow(folder, config), folder)


def test_the_example_for_ones_own_folders_is_checked_trains_and_is_tested(folder: Path) -> None:
    (folder / 'configs').symlink_to(ROOT / 'configs')
    page = (ROOT / 'docs/own_data.md').read_text()
    (text,) = re.findall(r'```python\n(# handwriting\.py\n.+?)```', page, re.DOTALL)
    (folder / 'handwriting.py').write_text(text)
    scratch = ('--cfg-options', 'model.backbone.init_cfg=None')
    run('train.py', 'handwriting.py', '--check-only', *scratch, cwd=folder)
    config = folder / 'narrow.py'
    config.write_text(
        dedent(
            f"""
            _base_ = 'handwriting.py'
            model = dict(backbone=dict(arch=dict(_delete_=True, **{ARCH!r}), init_cfg=None),
                         head=dict(in_channels=128))
            few = dict(num_workers=0, persistent_workers=False, dataset=dict(indices=64))
            train_dataloader = val_dataloader = test_dataloader = few
            train_cfg = dict(max_epochs=1)
            """
        )
    )
    assert 'accuracy/top1' in train_and_test(config, folder)


def test_an_instance_segmenter_trains_and_is_tested(folder: Path) -> None:
    config = write_narrow(folder, 'mask_rcnn_cont_m_fpn_1x_cityscapes.py')
    found = train_and_test(config, folder)
    assert {'coco/bbox_mAP', 'coco/segm_mAP', 'cityscapes/mAP'} <= found.keys()


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
