"""What training keeps for backward is as small under autocast as in fp32."""

from contextlib import nullcontext

import torch
from torch import Tensor

from mmcontnet.backbones.base import HybridBackbone
from mmcontnet.ops import force_reference

from ..families import Family, every_family


def kept(backbone: HybridBackbone, *, half: bool, reference: bool = False) -> int:
    """Return the bytes that a forward pass keeps, parameters and buffers not counted."""
    own = {t.untyped_storage().data_ptr() for t in backbone.state_dict().values()}
    storages: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return t

    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 112, 112, generator=generator)
    with (
        force_reference() if reference else nullcontext(),
        torch.autocast('cpu', torch.bfloat16, enabled=half),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
    ):
        outs = backbone(image.to(memory_format=torch.channels_last))
        assert all(out.requires_grad for out in outs)  # whose graph lives till here
    return sum(storages.values())


# Of what the plain steps keep: norms within convolutions, attention by tiles.
SHARES = {'CMT': 0.9, 'ResNetACmix': 0.5}


@every_family
def test_what_saves_memory_in_fp32_saves_as_much_under_autocast(family: Family) -> None:
    backbone = family()
    fp32, bf16 = (kept(backbone, half=half) for half in (False, True))
    # Not half: autocast keeps LayerNorms' inputs in fp32, and pooling its indices in int64.
    assert bf16 < 0.75 * fp32
    if family.type in SHARES:
        for half, ours in ((False, fp32), (True, bf16)):
            assert ours < SHARES[family.type] * kept(backbone, half=half, reference=True)
