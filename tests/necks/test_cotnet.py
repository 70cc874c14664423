import torch

from mmcontnet.necks import CoTNetNeck


def test_neck_pools_the_last_map_and_drops_features_in_training_alone() -> None:
    neck = CoTNetNeck(drop_rate=0.25)
    maps = (torch.rand(2, 8, 9, 7), torch.rand(2, 4096, 5, 3) + 1)
    mean = maps[-1].mean((2, 3))
    (pooled,) = neck.eval()(maps)
    torch.testing.assert_close(pooled, mean)
    (dropped,) = neck.train()(maps)
    kept = dropped != 0
    assert 0.7 < kept.float().mean() < 0.8
    torch.testing.assert_close(dropped[kept], mean[kept] / 0.75)
