"""Attention maps: where the attention of one pixel of a photograph goes, layer by layer.

The networks compute attention in fused kernels, which never hold its weights. Here they are
computed once more, for one query, from the queries and keys that a hook takes from the layer on its
way; the layer itself runs as always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import UserError
from ..layers import LightweightAttention, PatchEncoder
from ..ops import pad_to_multiple, window_partition

#: Where in the photograph the query is: x and y as parts of its width and height.
Place = tuple[float, float]


@dataclass(frozen=True)
class AttentionMap:
    """The attention of one query over the keys of its patch or window.

    Attributes:
        layer: Name of the layer in the backbone.
        weights: (heads, rows, columns); every head sums to 1, padding of the map included.
        box: Left, top, right and bottom of the keys as parts of the width and the height of the
            photograph; what is padding lies beyond 1.
    """

    layer: str
    weights: Tensor
    box: tuple[float, float, float, float]

    def distance(self, place: Place, size: tuple[int, int]) -> float:
        """Return the mean distance of the attended keys, over all heads, in pixels.

        Args:
            place: Where the query is.
            size: Width and height of the photograph in pixels.
        """
        heads, rows, columns = self.weights.shape
        left, top, right, bottom = self.box
        xs = left + (torch.arange(columns) + 0.5) / columns * (right - left) - place[0]
        ys = top + (torch.arange(rows) + 0.5) / rows * (bottom - top) - place[1]
        distances = torch.hypot(ys[:, None] * size[1], xs[None] * size[0])
        return float((self.weights * distances).sum() / heads)


def attention_maps(backbone: nn.Module, image: Tensor, place: Place) -> list[AttentionMap]:
    """Compute the attention maps of all layers that attend, in the order in which they run.

    Args:
        backbone: In eval mode.
        image: (1, 3, H, W).
        place: Where the query is; each from 0 to below 1.

    Raises:
        UserError: If no layer of the backbone is known in ``READERS``.
    """
    maps: list[AttentionMap] = []
    handles: list[RemovableHandle] = []
    try:
        for name, layer in backbone.named_modules():
            if type(layer) in READERS:
                handles += READERS[type(layer)](layer, name, place, maps)
        if not handles:
            layers = ', '.join(layer.__name__ for layer in READERS)
            raise UserError(
                f'{type(backbone).__name__} has no layer whose attention is known ({layers})'
            )
        with torch.no_grad():
            backbone(image)
    finally:
        for handle in handles:
            handle.remove()
    return maps


def _read_patch_encoder(
    layer: PatchEncoder, name: str, place: Place, maps: list[AttentionMap]
) -> list[RemovableHandle]:
    size = (0, 0)  # of the map, which the layer is told before it asks for queries and keys

    def take_size(module: nn.Module, args: tuple[Tensor, tuple[int, int]]) -> None:
        nonlocal size
        size = args[1]

    def read(module: nn.Module, args: tuple[Tensor], qkv: Tensor) -> None:
        (h, w), p = size, layer.patch_size
        row, column = int(place[1] * h), int(place[0] * w)
        # Find the query, and the order of its patch's tokens, by cutting maps as the layer does.
        mark = torch.zeros(1, 1, h, w)
        mark[..., row, column] = 1
        mark = window_partition(pad_to_multiple(mark, layer.tile), layer.tile, layer.order)
        patch, query = divmod(int(mark.argmax()), p**2)
        order = window_partition(torch.arange(p**2).reshape(1, 1, p, p), p, layer.order).flatten()
        patches = qkv.reshape(-1, p**2, 3, layer.num_heads, qkv.shape[-1] // (3 * layer.num_heads))
        q, k, _ = patches[patch].permute(1, 2, 0, 3).unbind(0)
        logits = (k @ q[:, query, :, None])[..., 0] / q.shape[-1] ** 0.5
        if layer.position_bias is not None:
            logits = logits + layer.position_bias()[:, query]
        weights = logits.softmax(-1).cpu()[:, order.argsort()]
        top, left = row // p * p, column // p * p
        box = (left / w, top / h, (left + p) / w, (top + p) / h)
        maps.append(AttentionMap(name, weights.reshape(-1, p, p), box))

    return [layer.register_forward_pre_hook(take_size), layer.qkv.register_forward_hook(read)]


def _read_lightweight_attention(
    layer: LightweightAttention, name: str, place: Place, maps: list[AttentionMap]
) -> list[RemovableHandle]:
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        seen[module] = out[0]  # (rows, columns, C)

    def read(module: nn.Module, args: tuple[Tensor, Tensor, Tensor | None], out: Tensor) -> None:
        tokens, bias, factor = args
        h, w = tokens.shape[1:3]
        row, column = int(place[1] * h), int(place[0] * w)
        keys = seen[layer.k]
        rows, columns = keys.shape[:2]
        q = seen[layer.q][row, column].reshape(layer.num_heads, -1, 1)
        k = keys.reshape(rows * columns, layer.num_heads, -1).transpose(0, 1)
        added = bias[:, row * w + column]
        logits = (k @ q)[..., 0] / q.shape[1] ** 0.5
        logits = logits + (added if factor is None else added @ factor.mT)
        weights = logits.softmax(-1).reshape(-1, rows, columns).cpu()
        # The last keys may reach over the edge.
        box = (0.0, 0.0, columns * layer.reduction / w, rows * layer.reduction / h)
        maps.append(AttentionMap(name, weights, box))

    projections = [projection.register_forward_hook(keep) for projection in (layer.q, layer.k)]
    return [*projections, layer.register_forward_hook(read)]


#: How to read each kind of layer: by hooks that append its map when it runs. A family with another
#: kind adds it here.
READERS: dict[type[nn.Module], Callable[..., list[RemovableHandle]]] = {
    LightweightAttention: _read_lightweight_attention,
    PatchEncoder: _read_patch_encoder,
}


def plot_attention_maps(
    image: Image.Image, place: Place, maps: Sequence[AttentionMap], picture: Path
) -> None:
    """Draw maps over the photograph, a panel each, with a cross at the query.

    The mean over the heads is shown, as a part of the largest weight; what is not attended to at
    all, outside the frame, is dark.

    Args:
        image: The photograph.
        place: Where the query is.
        maps: What to draw.
        picture: File to write; its suffix says the format.
    """
    columns = min(4, len(maps))
    rows = -(-len(maps) // columns)
    width, height = image.size
    size = (2.9 * columns, (2.9 * height / width + 0.3) * rows)
    panels = Figure(size, layout='constrained').subplots(rows, columns, squeeze=False)
    for axes, attention in zip(panels.flatten(), maps, strict=False):
        weights = attention.weights.mean(0)
        sides = zip(attention.box, (width, height) * 2, strict=True)
        left, top, right, bottom = (part * side for part, side in sides)
        axes.imshow(image.convert('L'), 'gray', vmin=0, vmax=320, extent=(0, width, height, 0))
        extent = (left, right, bottom, top)
        axes.imshow(weights / weights.max(), 'inferno', vmin=0, alpha=0.75, extent=extent)
        frame = (left, top), right - left, bottom - top
        axes.add_patch(Rectangle(*frame, fill=False, color='white'))
        axes.plot(place[0] * width, place[1] * height, '+', color='#33e0ff', markersize=9)
        axes.set_title(f'{attention.layer}, {weights.shape[0]} x {weights.shape[1]}', fontsize=9)
    for axes in panels.flatten():
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis('off')
    panels[0, 0].figure.savefig(picture, dpi=110)
