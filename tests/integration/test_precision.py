"""Training in half precision, on real data."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ..families import FAMILIES, Family

ITERATIONS = 18
BATCH = 16
SEEDS = 3
# Pixels: BatchNorm of the last stage's single pixels would amplify each rounding.
SIDE = 56


@pytest.fixture(scope='module')
def digits(real_data: Path) -> tuple[Tensor, Tensor]:
    """The digits for training, (N, 1, SIDE, SIDE), and their labels."""
    paths = sorted((real_data / 'digits/train').glob('*/*.png'))
    grey = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths)
    images = np.stack([cv2.resize(image, (SIDE, SIDE)) for image in grey])
    labels = torch.tensor([int(path.parent.name) for path in paths])
    # MNIST's mean and standard deviation.
    return (torch.from_numpy(images).unsqueeze(1).float() - 33) / 79, labels


def losses(
    family: Family, digits: tuple[Tensor, Tensor], seed: int, device: str, dtype: torch.dtype
) -> Tensor:
    """Train a classifier; return its loss, averaged over every 6 iterations."""
    images, labels = digits
    torch.manual_seed(seed)
    backbone, head = family(in_channels=1).to(device), nn.Linear(family.channels[3], 10).to(device)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    found = []
    for _ in range(ITERATIONS):
        chosen = torch.randint(len(images), (BATCH,))
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            (out,) = backbone(images[chosen].to(device))
            loss = nn.functional.cross_entropy(head(out.mean((2, 3))), labels[chosen].to(device))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 10)
        scaler.step(optimizer)
        scaler.update()
        found.append(loss.item())
    return torch.tensor(found).unflatten(0, (-1, 6)).mean(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('device', 'dtype'),
    [
        ('cpu', torch.bfloat16),
        pytest.param('cuda', torch.bfloat16, marks=pytest.mark.gpu),
        pytest.param('cuda', torch.float16, marks=pytest.mark.gpu),
    ],
)
# ConTNet's two kinds of downsampling compute with the same layers.
@pytest.mark.parametrize('family', FAMILIES[1:], ids=lambda family: family.type)
def test_the_loss_in_half_precision_is_nearer_by_far_than_those_of_seeds_to_each_other(
    family: Family, device: str, dtype: torch.dtype, digits: tuple[Tensor, Tensor]
) -> None:
    full, half = (
        torch.stack([losses(family, digits, seed, device, kind) for seed in range(SEEDS)])
        for kind in (torch.float32, dtype)
    )
    noise = max((a - b).square().mean().sqrt() for a, b in itertools.combinations(full, 2))
    # It learns, so that there is something to follow.
    assert (full[:, 0] - full[:, -1]).mean() > noise
    # The mean over the seeds, each with the same images in the same order.
    far = (half - full).mean(0).square().mean().sqrt()
    assert far < noise / 2
