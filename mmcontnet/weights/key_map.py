"""Map the tensors of an author's checkpoint to our names, and recognise its network."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

#: Pattern, and what replaces it: a template, or a function of the match.
Rename = tuple[str, str | Callable[[re.Match], str]]


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint.

    Attributes:
        state_dict: mmpretrain-style names: ``backbone.*``, ``neck.*``, ``head.fc.*``.
        backbone: Config of the backbone that the tensors fit.
        neck: Config of the neck, for families whose classifiers have one with parameters.
        entry: Where in the checkpoint's file the tensors were; None for a bare state dict.
    """

    state_dict: dict[str, Tensor]
    backbone: dict[str, Any]
    neck: dict[str, Any] | None = None
    entry: str | None = None


@dataclass(frozen=True)
class KeyMap:
    """The key map of a family.

    Attributes:
        name: Of the backbone's class.
        archs: Its table of variants.
        signs: Patterns of keys that together tell the family.
        renames: Applied to each key one after the other. What is then neither of ``head`` nor of
            ``neck`` is the backbone's. Names that end in ``[i]`` are joined in the order of i.
        width: Name of ours whose tensor has as many rows as the first stage has channels.
        dropped: Pattern of keys whose tensors follow from the rest.
        adapt: Function of a tensor and its new name that returns the tensor as ours is.
        options: Function of the authors' names, our tensors and the fields of the variant that
            returns the backbone's arguments that are not the defaults.
        neck: Function of the variant's fields that returns the config of the neck.
    """

    name: str
    archs: Mapping[str, Mapping[str, Any]]
    signs: tuple[str, ...]
    renames: tuple[Rename, ...]
    width: str
    dropped: str = r'$^'
    adapt: Callable[[Tensor, str], Tensor] = lambda value, name: value
    options: Callable[[Collection[str], Mapping[str, Tensor], Mapping[str, Any]], dict] = (
        lambda keys, tensors, fields: {}
    )
    neck: Callable[[Mapping[str, Any]], dict[str, Any] | None] = lambda fields: None

    def matches(self, keys: Collection[str]) -> bool:
        """Tell whether these are keys of the family."""
        return all(any(re.search(sign, key) for key in keys) for sign in self.signs)

    def convert(self, state_dict: Mapping[str, Tensor]) -> Converted:
        """Rename the tensors, and tell the network from their names and shapes.

        Raises:
            CheckpointError: If no variant has these depths and widths, or tensors contradict each
                other.
        """
        tensors = self._rename(state_dict)
        depths = [0, 0, 0, 0]
        for name in tensors:
            if block := re.match(r'backbone\.stages\.([0-3])\.(?:blocks\.)?(\d+)\.', name):
                depths[int(block[1])] = max(depths[int(block[1])], int(block[2]) + 1)
        width = len(tensors[self.width]) if self.width in tensors else None
        for arch, fields in self.archs.items():
            widths = fields.get('mid_channels') or fields['embed_dims']
            if (tuple(depths), width) == (fields['depths'], widths[0]):
                options = self.options(state_dict.keys(), tensors, fields)
                backbone = dict(type=self.name, arch=arch, **options)
                return Converted(tensors, backbone, self.neck(fields))
        raise CheckpointError(
            f'a {self.name} of unknown arch: depths {tuple(depths)}, width {width}; '
            f'known: {sorted(self.archs)}'
        )

    def _rename(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts: dict[str, dict[str, str]] = {}  # authors' keys by name and part
        for key in state_dict:
            if re.search(self.dropped, key):
                continue
            name = key
            for pattern, replacement in self.renames:
                name = re.sub(pattern, replacement, name)
            name = name if name.startswith(('head.', 'neck.')) else f'backbone.{name}'
            name, _, part = name.partition('[')
            if part in parts.setdefault(name, {}):
                raise CheckpointError(f'two tensors of the checkpoint are both {name}')
            parts[name][part] = key
        tensors = {}
        for name, keys in parts.items():
            # What is missing of several shows in the shape.
            values = [state_dict[keys[part]] for part in sorted(keys)]
            try:
                tensors[name] = self.adapt(torch.cat(values) if '' not in keys else values[0], name)
            except (CheckpointError, RuntimeError) as error:
                some = ', '.join(keys[part] for part in sorted(keys))
                raise CheckpointError(f'{some} cannot be converted: {error}') from error
        return tensors


def renumber(template: str, by: int) -> Callable[[re.Match], str]:
    """Return a replacement: the template with the first group, a number, shifted by a number."""
    return lambda match: template.format(int(match[1]) + by)


def flatten_linear(value: Tensor, name: str) -> Tensor:
    """Make a linear layer's weight of the 1x1 convolution's that mixes projections in ACmix."""
    return value.flatten(1) if name.endswith('.convolution.mix.weight') else value
