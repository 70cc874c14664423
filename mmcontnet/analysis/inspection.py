"""Backbones with their weights, and images as their input, for the tools that look inside."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..builders import find_type, network_errors
from ..checkpoint import load_checkpoint
from ..errors import UserError

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def build_backbone(
    cfg: Config, checkpoint: str | None = None, stages: Sequence[int] | None = None
) -> nn.Module:
    """Build the backbone of a detector, a segmenter or a classifier, in eval mode.

    Its parameters take no gradients: what is looked at is not trained.

    Args:
        cfg: The config, as :func:`mmcontnet.engine.load_config` reads it.
        checkpoint: File with the weights of the whole model; None leaves them random. What a config
            would load by itself is left out either way.
        stages: The backbone's ``out_indices``; None keeps the config's.

    Raises:
        UserError: If the config has no backbone, the backbone cannot be built or lets no stages be
            chosen, or the checkpoint does not hold its weights.
    """
    config = (cfg.get('model') or {}).get('backbone')
    if config is None:
        raise UserError('the config has no model.backbone')
    config = config.copy()
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    if stages is not None:
        config.out_indices = tuple(stages)
    config.pop('init_cfg', None)
    arguments = inspect.signature(find_type(MODELS, config, 'model.backbone')).parameters
    if checkpoint is None and 'zero_init_residual' in arguments:
        # It would make an identity of every residual block.
        config.zero_init_residual = False
    with network_errors('model.backbone'):
        backbone = MODELS.build(config)
    if checkpoint is not None:
        load_checkpoint(backbone, checkpoint, prefix='backbone.')
    elif hasattr(backbone, 'init_weights'):
        logging.disable(logging.INFO)  # a line for every tensor
        backbone.init_weights()
        logging.disable(logging.NOTSET)
    backbone.eval()
    return backbone.requires_grad_(False)


@torch.no_grad()
def estimate_norm_statistics(module: nn.Module, images: Sequence[Tensor]) -> None:
    """Give BatchNorm layers of an untrained network the statistics of some images.

    Their initial mean 0 and variance 1 would not normalise anything, and describe a network that
    exists at no time of a training.

    Args:
        module: The network; in eval mode afterwards.
        images: Inputs, each (B, 3, H, W).
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over the images
            layer.train()
    for image in images:
        module(image)
    module.eval()


def input_normalisation(cfg: Config) -> tuple[list[float], list[float], str]:
    """Look up what a config's data preprocessor does to pixels of 0-255.

    Returns:
        Mean and standard deviation by channel, and the order of the channels, ``'RGB'`` or
        ``'BGR'``.
    """
    config = (cfg.get('model') or {}).get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    order = 'RGB' if config.get('bgr_to_rgb') or config.get('to_rgb') else 'BGR'
    return list(config.get('mean') or [0.0] * 3), list(config.get('std') or [1.0] * 3), order


def to_input(image: Image.Image, cfg: Config) -> Tensor:
    """Turn a photograph into a backbone's input, (1, 3, H, W), normalised as the config says."""
    mean, std, order = input_normalisation(cfg)
    pixels = torch.from_numpy(np.array(image.convert('RGB'))).permute(2, 0, 1).float()
    if order == 'BGR':
        pixels = pixels.flip(0)
    return ((pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])[None]


def find_images(paths: Sequence[Path]) -> list[Path]:
    """List the files among paths, and the image files directly in folders among them, by name.

    Raises:
        UserError: For what does not exist, and for folders without images.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f'image {str(path)!r} not found')
        inside = sorted(f for f in path.glob('*') if f.suffix.lower() in SUFFIXES)
        if path.is_dir() and not inside:
            raise UserError(f'no images ({", ".join(SUFFIXES)}) in folder {str(path)!r}')
        found += inside or [path]
    return found
