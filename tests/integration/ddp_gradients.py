"""Two processes, a batch each: writes how far DDP's gradients are from those of one process."""

from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS, init_default_scope

from mmcontnet.engine import load_config, process_group

ROOT = Path(__file__).parents[2]


def gradients(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    logits = model(images, mode='tensor')
    torch.nn.functional.cross_entropy(logits, labels).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def compare(cfg: Config) -> None:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    # BatchNorm in eval mode: two processes normalise by their own batches otherwise.
    model = MODELS.build(cfg.model).eval()
    images, labels = torch.randn(4, 3, 64, 64), torch.randint(1000, (4,))
    expected = gradients(model, images, labels)
    rank = dist.get_rank()
    wrapper = {key: value for key, value in cfg.model_wrapper_cfg.items() if key != 'type'}
    parallel = MMDistributedDataParallel(model, **wrapper).eval()
    mine = slice(2 * rank, 2 * rank + 2)
    actual = gradients(parallel, images[mine], labels[mine])
    if rank == 0:
        difference = (actual - expected).abs().max() / expected.abs().max()
        Path('difference.txt').write_text(str(float(difference)))
    # The other rank's half was needed: alone, this one does not come to the same.
    assert not torch.allclose(gradients(model, images[mine], labels[mine]), expected)


def main() -> None:
    cfg = load_config(str(ROOT / 'configs/cont_s_8xb64_in1k.py'), launcher='pytorch')
    with process_group(cfg):
        compare(cfg)


if __name__ == '__main__':
    main()
