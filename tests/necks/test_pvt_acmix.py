"""PVT-ACmix's classifier between backbone and linear layer."""

import torch

from mmcontnet.necks import PVTACmixNeck


def test_every_pixel_of_the_last_output_is_normalised_before_the_mean() -> None:
    neck = PVTACmixNeck(4)
    neck.norm.bias.data.fill_(2.0)
    x = torch.randn(2, 4, 3, 5)
    centred = x - x.mean(1, keepdim=True)
    expected = (centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()).mean((2, 3)) + 2
    (out,) = neck([torch.randn(2, 8, 6, 10), x])
    torch.testing.assert_close(out, expected)
