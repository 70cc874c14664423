"""Training with compiled backbones: mmcontnet.engine.compilation."""

import re
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config

from mmcontnet.engine import CompileHook
from mmcontnet.engine.compilation import FixedPad, training_size
from mmcontnet.errors import UserError

from ..integration.cli import ROOT, run
from ..integration.configs import write_detector
from ..integration.data import make_coco


@pytest.mark.parametrize(
    ('config', 'sides'),
    [
        ('retinanet_cont_m_fpn_1x_coco', (800, 1344)),  # 784 is no multiple of 32
        # One of its branches first enlarges to sides of 4200, crops, and resizes again.
        ('mask_rcnn_swin_acmix_t_fpn_3x_ms_coco', (800, 1344)),
        ('mask_rcnn_cont_m_fpn_1x_cityscapes', (1024, 2016)),
        ('mask_rcnn_cont_ti_fpn_100i_nuclei', None),  # crops
    ],
)
def test_the_largest_size_of_a_pipeline(config: str, sides: tuple[int, int] | None) -> None:
    assert training_size(Config.fromfile(ROOT / f'configs/{config}.py')) == sides


@pytest.mark.parametrize(
    ('size', 'padded'),
    [((50, 60), (64, 96)), ((60, 50), (96, 64)), ((64, 96), (64, 96)), ((50, 50), (64, 96))],
)
def test_images_are_padded_to_one_size_or_that_turned(
    size: tuple[int, int], padded: tuple[int, int]
) -> None:
    sample = DetDataSample(metainfo=dict(batch_input_shape=size, pad_shape=size))
    images = torch.rand(2, 3, *size)
    out, (sample,) = FixedPad(64, 96)(images, [sample])
    assert out.shape == (2, 3, *padded)
    assert sample.batch_input_shape == sample.pad_shape == padded
    assert torch.equal(out[..., : size[0], : size[1]], images)
    assert out.count_nonzero() == images.count_nonzero()


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(UserError, match="--compile must be one of .*aot_eager.*, got 'fast'"):
        CompileHook('fast')


@pytest.mark.slow
def test_a_detector_trains_compiled_and_is_resumed_and_tested_as_any_other(tmp_path: Path) -> None:
    make_coco(tmp_path / 'data/coco', images=5)
    detector = write_detector(tmp_path)
    run('train.py', detector, '--work-dir', 'plain', cwd=tmp_path)
    options = ['--work-dir', 'work', '--compile', 'aot_eager']
    log = run('train.py', detector, *options, cwd=tmp_path).stdout
    # Five images of five sizes, padded to two; FPN is more graphs than one.
    (count,) = re.findall(r'aot_eager compiled (\d+) graphs of backbone and neck', log)
    assert int(count) <= 6
    compiled, plain = (
        torch.load(tmp_path / name / 'epoch_1.pth', weights_only=False)['state_dict']
        for name in ('work', 'plain')
    )
    assert compiled.keys() == plain.keys()
    longer = ['--resume', '--cfg-options', 'train_cfg.max_epochs=2']
    assert 'Epoch(val) [2]' in run('train.py', detector, *options, *longer, cwd=tmp_path).stdout
    assert 'bbox_mAP' in run('test.py', detector, 'work/epoch_2.pth', cwd=tmp_path).stdout
