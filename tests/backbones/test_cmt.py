import torch

from mmcontnet.backbones import CMT

from .. import families
from ..families import ALL


def test_weights_of_another_image_size_load_and_are_those_of_the_resized_bias() -> None:
    source = CMT(families.CMT, out_indices=ALL).eval()
    loaded = CMT(families.CMT, img_size=96, out_indices=ALL).eval()
    loaded.load_state_dict(source.state_dict(), strict=True)
    assert loaded.stages[0].position_bias.table.shape == (1, 24 * 24, 9)
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        for actual, expected in zip(loaded(x), source(x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
