"""Backbones by name, for programs without a config, and for mmpretrain's list of models."""

from __future__ import annotations

import difflib
import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from . import backbones
from .analysis.results import read_results
from .backbones.base import HybridBackbone
from .checkpoint import load_checkpoint
from .errors import UserError


def _variants() -> dict[str, dict[str, Any]]:
    """Return class and arch of every variant, by its name in the names of configs."""
    families = read_results()['families'].values()
    named = {name: entry for family in families for name, entry in family['backbones'].items()}
    return {name: entry for name, entry in named.items() if 'type' in entry}  # no ResNet


def list_backbones(pattern: str = '') -> list[str]:
    """List the names that :func:`create_backbone` takes, which are those in configs' names.

    Args:
        pattern: Return only names that start like this; ``*``, ``?`` and ``[...]`` are wildcards.
            ``mmpretrain.list_models`` has the same rule.

    Returns:
        The names, family by family, from small to large.

    Example:
        >>> import mmcontnet
        >>> mmcontnet.list_backbones('cont')
        ['cont_ti', 'cont_s', 'cont_m', 'cont_b']
        >>> mmcontnet.list_backbones('*acmix_s')
        ['pvt_acmix_s', 'swin_acmix_s']
    """
    return fnmatch.filter(_variants(), f'{pattern}*')


def create_backbone(
    name: str, *, checkpoint: str | Path | None = None, **kwargs: Any
) -> HybridBackbone:
    """Create a backbone that computes feature maps, (B, 3, H, W) -> tuple of (B, C_i, H_i, W_i).

    Args:
        name: One of :func:`list_backbones`.
        checkpoint: File or URL of the weights; None leaves them random. A classifier, detector or
            segmenter that was trained here or converted by ``tools/convert_checkpoint.py``, or the
            backbone alone. Nothing that the file may ask for is run.
        **kwargs: Further arguments of the backbone's class, such as ``out_indices``,
            ``frozen_stages`` or ConTNet's ``downsample``.

    Returns:
        The backbone, in training mode. ``out_channels`` and ``out_strides`` describe its outputs.

    Raises:
        UserError: If there is no such name.
        CheckpointError: If the weights cannot be read or do not fit; a UserError too.
        ValueError: For an argument outside of what the class accepts.

    Example:
        >>> backbone = create_backbone('cont_m', downsample='pool', out_indices=(0, 1, 2, 3))
        >>> backbone.out_channels, backbone.out_strides
        ((128, 256, 512, 1024), (4, 8, 16, 32))
    """
    variants = _variants()
    if name not in variants:
        close = difflib.get_close_matches(name, variants, 3)
        hint = f'did you mean {" or ".join(close)}?' if close else f'choose from {list(variants)}'
        raise UserError(f'there is no backbone {name!r}; {hint}')
    entry = variants[name]
    backbone = getattr(backbones, entry['type'])(entry['arch'], **kwargs)
    if checkpoint is not None:
        load_checkpoint(backbone, str(checkpoint), prefix='backbone.')
    return backbone


@cache  # mmpretrain refuses a name that it has
def register_with_mmpretrain() -> None:
    """Add the classifiers to the models that ``mmpretrain.list_models`` and ``get_model`` know.

    They have the names of their configs. mmpretrain must be installed, and reads no other packages'
    models by itself; so this is to be called once, before its functions.

    Example:
        >>> import mmpretrain, mmcontnet
        >>> mmcontnet.register_with_mmpretrain()
        >>> mmpretrain.list_models('cont_m')
        ['cont_m_8xb64_in1k', 'cont_m_strong_aug_8xb64_in1k']
        >>> model = mmpretrain.get_model('cont_m_8xb64_in1k')
    """
    from mmpretrain.apis import ModelHub

    from .engine.config import resources

    root = resources()
    for metafile in sorted((root / 'configs/metafiles').glob('*.yml')):
        if not metafile.stem.endswith('_dense'):  # detectors and segmenters
            ModelHub.register_model_index(metafile, config_prefix=root)
