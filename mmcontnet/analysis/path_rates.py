"""How much ACmix's layers rely on attention and on convolution, by depth (ACmix, section 5.5)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ..checkpoint import read_weights
from ..errors import UserError
from .report import replacing

# The authors' names, and ours.
_NAMES = (('rate1', 'rate2'), ('rate_attention', 'rate_convolution'))


@dataclass
class PathRates:
    """Learnt rates of both paths.

    Attributes:
        layers: Names of ACmix's layers, from the first to the last.
        attention: alpha of each.
        convolution: beta of each.
    """

    layers: list[str]
    attention: list[float]
    convolution: list[float]


def read_path_rates(checkpoint: str) -> PathRates:
    """Read the rates from a checkpoint: of a training, a converted one, or the authors'.

    Raises:
        UserError: If the file cannot be read or holds no learnt rates of both paths.
    """
    # OpenMMLab's trainings write the one, Swin's and DeiT's code the other.
    state = read_weights(checkpoint, ('state_dict', 'model'))
    for names in _NAMES:
        layers = [key.removesuffix(f'.{names[0]}') for key in state if key.endswith(f'.{names[0]}')]
        if layers:
            break
    else:
        raise UserError(f'checkpoint {checkpoint!r} holds no rates of ACmix')
    missing = [layer for layer in layers if f'{layer}.{names[1]}' not in state]
    if missing:
        raise UserError(
            f'checkpoint {checkpoint!r} holds rates of attention alone (of {missing[0]}, ...): '
            "what the others are follows from attention's; only combine='rates' learns both"
        )
    for layer, name in itertools.product(layers, names):
        rate = state[f'{layer}.{name}']
        if rate.numel() != 1 or not rate.isfinite():
            raise UserError(f'checkpoint {checkpoint!r}: {layer}.{name} is not one finite number')
    attention, convolution = (
        [float(state[f'{layer}.{name}']) for layer in layers] for name in names
    )
    return PathRates(layers, attention, convolution)


def plot_path_rates(rates: Mapping[str, PathRates], picture: Path) -> None:
    """Draw figure 5: both rates and the logarithm of their ratio by depth, a line a checkpoint.

    Args:
        rates: By the name for the legend.
        picture: File to write; its suffix says the format.
    """
    figure = Figure(figsize=(11, 3.4), layout='constrained')
    panels = figure.subplots(1, 3)
    for name, of in rates.items():
        depths = range(1, len(of.layers) + 1)
        alpha, beta = ([abs(rate) for rate in path] for path in (of.attention, of.convolution))
        # A rate that has become 0 leaves a gap.
        ratio = [math.log(a / b) if a and b else math.nan for a, b in zip(alpha, beta, strict=True)]
        for panel, values in zip(panels, (alpha, beta, ratio), strict=True):
            panel.plot(depths, values, marker='o', markersize=3, label=name)
    titles = ('attention, |α|', 'convolution, |β|', 'log |α / β|')
    for panel, title in zip(panels, titles, strict=True):
        panel.set(title=title, xlabel='layer')
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
    panels[2].axhline(0, color='black', linewidth=0.8)
    panels[0].legend(frameon=False)
    with replacing(picture) as partial:
        figure.savefig(partial, dpi=120)
