"""The authors' networks' results for weights and inputs that can be rebuilt (tests/data/parity).

One pair of files a network. ``NAME.json``: input shape, the authors' state dict (names and shapes),
gradient norms, and where each stage was sampled; ``NAME.npz``: logits and stage samples.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PARITY_DIR = Path(__file__).parent / 'data' / 'parity'


def record(name: str) -> dict[str, Any]:
    """Load both files of a record into one dict."""
    content = json.loads((PARITY_DIR / f'{name}.json').read_text())
    return {**content, **np.load(PARITY_DIR / f'{name}.npz')}


def noise(key: str, shape: list[int] | tuple[int, ...]) -> np.ndarray:
    """Normal noise that depends on the name alone."""
    random = np.random.RandomState(zlib.crc32(key.encode()))
    return random.standard_normal(shape).astype(np.float32)


def author_state_dict(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Make the weights for which the records were computed, under the authors' names."""
    state_dict = {}
    for key, shape in shapes.items():
        if key.endswith('num_batches_tracked'):
            state_dict[key] = torch.zeros((), dtype=torch.long)
            continue
        if key.endswith(('relative_position_index', 'attn_mask')):
            # As the authors' network makes them, which is nothing to a converter.
            state_dict[key] = torch.zeros(shape)
            continue
        n = noise(key, shape)
        if key.endswith('running_var'):
            n = 1 + 0.1 * abs(n)
        elif key.endswith(('running_mean', '.bias')):
            n = 0.1 * n
        elif '.pe.' in key or 'relative_p' in key:
            n = 0.5 * n
        elif key.endswith(('rate1', 'rate2')):
            n = 0.5 + 0.1 * n
        elif len(shape) == 1:
            n = 1 + 0.1 * n
        else:
            n = n / np.sqrt(np.prod(shape[1:]))
        state_dict[key] = torch.from_numpy(np.asarray(n, dtype=np.float32))
    return state_dict


def author_input(shape: list[int]) -> Tensor:
    """Make the input for which the records were computed."""
    return torch.from_numpy(np.random.RandomState(0).standard_normal(shape).astype(np.float32))
