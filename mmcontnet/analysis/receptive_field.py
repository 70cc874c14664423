"""Effective receptive fields: which pixels of a photograph a unit of a feature map depends on.

The effective receptive field (Luo et al., 2016, arXiv:1701.04128) is the gradient of a unit with
respect to the input. Three choices make it comparable between networks:

- A unit is all channels at one place, with random weights: in a plain sum of the channels their
  gradients would cancel.
- What attention sees ends where its patch or window ends, so a unit at the corner of its patch sees
  one quarter of its surroundings. Therefore every photograph takes its unit at another place,
  spread evenly over the central third of the map, and the gradients are laid over each other unit
  on unit. A third of 672 pixels, 224, is the period of ConTNet's 14 x 14 patches at stride 16, of
  7 x 7 patches and windows at stride 32, and of all smaller ones.
- Radii are measured from the centre of mass of the mean map: which pixel lies in the middle of a
  unit depends on how a network pads and pools.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor, nn

#: What matplotlib can write.
PICTURES = tuple(f'.{suffix}' for suffix in sorted(Figure().canvas.get_supported_filetypes()))
#: The parts of the mass whose radii are measured, with the style of their circles in pictures.
PARTS = {0.5: 'solid', 0.8: 'dashed', 0.95: 'dotted'}

LINE = '#33e0ff'


@dataclass(frozen=True)
class ReceptiveField:
    """The mean effective receptive field of an output of a backbone.

    Attributes:
        stride: Pixels of the photograph per pixel of the output.
        heat: (2 S, 2 S) for photographs of side S: each pixel's share, the unit in the middle.
        centre: Row and column of the centre of mass in ``heat``.
        radii: In pixels of the photograph, for each of ``PARTS``.
    """

    stride: float
    heat: Tensor
    centre: tuple[float, float]
    radii: tuple[float, ...]


def receptive_fields(
    backbone: nn.Module, images: Iterable[Tensor], count: int
) -> list[ReceptiveField]:
    """Measure the receptive fields of all outputs of a backbone.

    Args:
        backbone: Takes an image, returns a sequence of maps (1, C, H, W).
        images: ``count`` inputs, each (1, C, S, S).
        count: Number of images.

    Returns:
        One result an output, in their order.
    """
    generator = torch.Generator().manual_seed(0)
    # Shuffled strata: rows and columns are each spread evenly, however few the images.
    places = torch.stack([torch.randperm(count, generator=generator) for _ in range(2)], dim=1)
    places = (1 + (places + 0.5) / count) / 3
    heats: list[Tensor] = []
    strides: list[float] = []
    for image, place in zip(images, places.tolist(), strict=True):
        image = image.detach().requires_grad_()
        size = image.shape[-1]
        outs = backbone(image)
        heats = heats or [torch.zeros(2 * size, 2 * size, dtype=torch.float64) for _ in outs]
        strides = [size / out.shape[-1] for out in outs]
        for i, out in enumerate(outs):
            row, column = (int(part * out.shape[-1]) for part in place)
            weights = torch.randn(out.shape[1], generator=generator)
            unit = out[0, :, row, column] @ weights.to(out)
            (gradient,) = torch.autograd.grad(unit, image, retain_graph=i < len(outs) - 1)
            mass = gradient[0].abs().sum(0).double().cpu()
            top, left = (size - int((p + 0.5) * strides[i]) for p in (row, column))
            # Every photograph counts alike; a unit that is off adds nothing.
            mass /= mass.sum().clamp_min(torch.finfo(mass.dtype).tiny)
            heats[i][top : top + size, left : left + size] += mass
    return [
        _measure(heat / heat.sum(), stride) for heat, stride in zip(heats, strides, strict=True)
    ]


def _measure(heat: Tensor, stride: float) -> ReceptiveField:
    grid = torch.arange(len(heat), dtype=heat.dtype)
    centre = float(heat.sum(1) @ grid), float(heat.sum(0) @ grid)
    distance = torch.hypot(grid[:, None] - centre[0], grid - centre[1]).flatten()
    distance, order = distance.sort()
    mass = heat.flatten()[order].cumsum(0)
    indices = torch.searchsorted(mass, torch.tensor(list(PARTS), dtype=mass.dtype))
    radii = distance[indices.clamp_max(len(mass) - 1)]
    return ReceptiveField(stride, heat, centre, tuple(radii.tolist()))


def plot_receptive_fields(
    networks: Sequence[tuple[str, Sequence[ReceptiveField]]], picture: Path
) -> None:
    """Draw networks side by side, a column each, with circles that hold parts of the mass.

    Brightness is logarithmic, and relative to the brightest place of each map.

    Args:
        networks: For each its title, and one field a stage; the same stages for all.
        picture: File to write; its suffix says the format.
    """
    columns, rows = len(networks), len(networks[0][1])
    figure = Figure(figsize=(2.9 * columns + 1, 3.1 * rows + 0.8), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False)
    for (title, column), axes_column in zip(networks, grid.T, strict=True):
        axes_column[0].set_title(title, fontsize=9)
        for field, axes in zip(column, axes_column, strict=True):
            heat = F.avg_pool2d(field.heat[None], 4)[0]  # single pixels are noise
            side, half = len(field.heat), len(field.heat) // 6  # a third of a photograph
            norm, extent = LogNorm(1e-3, 1, clip=True), (0, side, side, 0)
            image = axes.imshow((heat / heat.max()).numpy(), 'magma', norm, extent=extent)
            row, col = field.centre
            for radius, (part, style) in zip(field.radii, PARTS.items(), strict=True):
                label = f'{part:.0%}'
                circle = Circle((col, row), radius, fill=False, color=LINE, ls=style, label=label)
                axes.add_patch(circle)
            axes.set(xlim=(col - half, col + half), ylim=(row + half, row - half))
            radii = ' / '.join(f'{radius:.0f}' for radius in field.radii)
            axes.set(xticks=[], yticks=[], xlabel=f'stride {field.stride:g}: {radii} px')
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(),
        title=f'radius that holds ... of the gradient; each map shows {2 * half} x {2 * half} px',
        loc='outside lower center',
        ncols=len(PARTS),
        frameon=False,
    )
    figure.colorbar(image, ax=grid, label='gradient, relative to its maximum', aspect=40)
    figure.savefig(picture, dpi=100)
