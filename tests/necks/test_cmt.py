import torch
import torch.nn.functional as F
from torch import nn

from mmcontnet.necks import CMTNeck


def test_neck_is_projection_norm_swish_and_mean_and_drops_features_in_training_alone() -> None:
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
