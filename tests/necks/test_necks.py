"""What lies between a backbone and its classifier."""

import torch
import torch.nn.functional as F
from torch import nn

from mmcontnet.necks import CMTNeck, CoTNetNeck, PVTACmixNeck


def test_cmts_neck_is_projection_norm_swish_and_mean_and_drops_features_in_training_alone() -> None:
    neck = CMTNeck(8, 4096, drop_rate=0.25)
    for tensor in (neck.norm.running_mean, neck.norm.weight, neck.norm.bias):
        nn.init.normal_(tensor)
    maps = (torch.rand(2, 4, 9, 7), torch.rand(2, 8, 5, 3))
    for training in (False, True):
        neck.train(training)
        x = F.batch_norm(
            F.conv2d(maps[-1], neck.conv.weight, neck.conv.bias),
            neck.norm.running_mean.clone(),
            neck.norm.running_var.clone(),
            neck.norm.weight,
            neck.norm.bias,
            training,
        )
        mean = (x * torch.sigmoid(x)).mean((2, 3))
        (pooled,) = neck(maps)
        kept = pooled != 0
        assert 0.7 < kept.float().mean() < 0.8 if training else kept.all()
        scale = 1 / 0.75 if training else 1
        torch.testing.assert_close(pooled[kept], scale * mean[kept], rtol=1e-4, atol=1e-5)


def test_cotnets_neck_pools_the_last_map_and_drops_features_in_training_alone() -> None:
    neck = CoTNetNeck(drop_rate=0.25)
    maps = (torch.rand(2, 8, 9, 7), torch.rand(2, 4096, 5, 3) + 1)
    mean = maps[-1].mean((2, 3))
    (pooled,) = neck.eval()(maps)
    torch.testing.assert_close(pooled, mean)
    (dropped,) = neck.train()(maps)
    kept = dropped != 0
    assert 0.7 < kept.float().mean() < 0.8
    torch.testing.assert_close(dropped[kept], mean[kept] / 0.75)


def test_every_pixel_of_the_last_output_is_normalised_before_the_mean() -> None:
    neck = PVTACmixNeck(4)
    neck.norm.bias.data.fill_(2.0)
    x = torch.randn(2, 4, 3, 5)
    centred = x - x.mean(1, keepdim=True)
    expected = (centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()).mean((2, 3)) + 2
    (out,) = neck([torch.randn(2, 8, 6, 10), x])
    torch.testing.assert_close(out, expected)
