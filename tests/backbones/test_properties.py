"""What every backbone promises, at sizes and of images that hypothesis chooses."""

import re
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmcontnet.backbones.base import HybridBackbone

from ..families import ALL, Family, every_family


class Images(NamedTuple):
    """A batch of images, in full or under bf16 autocast."""

    batch: int
    size: tuple[int, int]
    noise: float
    constant: float
    bf16: bool

    def __call__(self) -> Tensor:
        return self.constant + self.noise * torch.randn(self.batch, 3, *self.size)

    def autocast(self) -> torch.autocast:
        # Where maps are one pixel wide, as those before the last stage then may be, oneDNN's bf16
        # convolutions of few channels with a stride read memory that nothing was written to.
        enabled = self.bf16 and self.size[1] > 16
        return torch.autocast('cpu', torch.bfloat16, enabled=enabled)


# Most are small: time goes with the area, and what goes wrong does so below a stride, a window or a
# patch of the last stage.
SIDES = st.one_of(*[st.integers(1, 70)] * 9, st.integers(71, 300))


def images(*batches: int) -> st.SearchStrategy[Images]:
    return st.builds(
        Images,
        batch=st.sampled_from(batches),
        size=st.tuples(SIDES, SIDES),
        noise=st.sampled_from([1.0, 0.0, 1e4]),
        constant=st.sampled_from([0.0, 1.0, -1e4, 1e4]),
        bf16=st.booleans(),
    )


def few(examples: int) -> Any:
    """Choose the same examples in every run, and keep nothing on the disk."""
    phases = (Phase.explicit, Phase.generate, Phase.shrink)
    return settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, phases=phases
    )


def in_range(family: Family, given: Images) -> Images:
    """Take large values from SAN, whose untrained norms let them pass.

    It weights values by products of them, with no softmax, so that every block squares them.
    """
    if family.type != 'SANACmix':
        return given
    return given._replace(noise=min(given.noise, 1.0), constant=min(abs(given.constant), 1.0))


def check_outputs(
    family: Family, backbone: HybridBackbone, outs: tuple[Tensor, ...], given: Images
) -> None:
    assert (backbone.out_channels, backbone.out_strides) == (family.channels, family.strides)
    for out, channels, stride in zip(outs, family.channels, family.strides, strict=True):
        sides = (-(-side // stride) for side in given.size)
        assert out.shape == (given.batch, channels, *sides)
        assert out.isfinite().all()


@every_family
@given(given=images(0, 1, 2, 3))
@example(given=Images(1, (300, 599), 1.0, 0.0, False))
@example(given=Images(1, (1, 1), 0.0, 0.0, False))
@example(given=Images(0, (33, 65), 0.0, 0.0, True))
@few(15)
def test_maps_are_finite_and_of_the_promised_shape(family: Family, given: Images) -> None:
    torch.manual_seed(0)
    given = in_range(family, given)
    backbone = family(out_indices=ALL).eval()
    with torch.no_grad(), given.autocast():
        check_outputs(family, backbone, backbone(given()), given)


@every_family
@given(given=images(0, 1, 2, 3))
@example(given=Images(1, (32, 32), 1.0, 0.0, False))
@example(given=Images(1, (1, 33), 1.0, 0.0, False))
@example(given=Images(1, (33, 1), 0.0, 0.0, False))
@example(given=Images(0, (1, 1), 0.0, 0.0, True))
@few(12)
def test_training_gives_finite_gradients_or_says_that_batch_norm_needs_more_pixels(
    family: Family, given: Images
) -> None:
    torch.manual_seed(0)
    backbone = family(out_indices=ALL)
    # CoTNet squeezes maps to one pixel, whatever their size; in these two there is no BatchNorm.
    single = max(given.size) <= family.strides[3] or family.type == 'CoTNet'
    if given.batch == 1 and single and family.type not in ('PVTACmix', 'SwinACmix'):
        shape = (1, 3, *given.size)
        message = f'{family.type} in training cannot take images of shape {shape}'
        with pytest.raises(ValueError, match=re.escape(message)), given.autocast():
            backbone(given())
        backbone = family(out_indices=ALL, norm_eval=True)
    with given.autocast():
        outs = backbone(given())
    check_outputs(family, backbone, outs, given)
    sum(out.float().square().sum() for out in outs).backward()
    assert [n for n, p in backbone.named_parameters() if not p.grad.isfinite().all()] == []


@every_family
@given(given=images(2, 3))
@few(8)
def test_images_have_no_part_in_the_maps_of_others_in_eval_mode(
    family: Family, given: Images
) -> None:
    torch.manual_seed(0)
    given = in_range(family, given)
    backbone = family(out_indices=ALL).eval()
    x = given()
    # Kernels may take sums in another order, and a difference of rounding beside a constant of 1e4
    # is one to see behind a norm: not in double precision.
    if not given.bf16:
        backbone, x = backbone.double(), x.double()
    # In bf16, oneDNN's products may take what comes after a row times 0.
    others = given() if given.bf16 else torch.full_like(x, float('nan'))
    others[1] = x[1]
    with torch.no_grad(), given.autocast():
        runs = zip(backbone(x[1:2]), backbone(x), backbone(others), strict=True)
    for alone, *maps in runs:
        tolerance = (2e-2 if given.bf16 else 1e-9) * alone.abs().max().item()
        for out in maps:
            torch.testing.assert_close(out[1:2], alone, rtol=0, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize('constant', [0.0, 1e3])
@every_family
def test_large_images_do_not_overflow_halves_on_a_gpu(family: Family, constant: float) -> None:
    torch.manual_seed(0)
    # Of images ten times as large, the first convolution passes the range of fp16.
    given = in_range(family, Images(2, (97, 130), 1e3, constant, False))
    backbone = family(out_indices=ALL).cuda()
    with torch.autocast('cuda', torch.float16):
        outs = backbone(given().cuda())
    check_outputs(family, backbone, outs, given)
    sum(out.float().square().mean() for out in outs).backward()
    assert [n for n, p in backbone.named_parameters() if not p.grad.isfinite().all()] == []
