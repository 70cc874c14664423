"""Load backbones with weights, and images for them, for tools that look into a network."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..builders import build, find_type, leaf_datasets, network_errors
from ..checkpoint import load_checkpoint
from ..errors import UserError
from ..images import read_image

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
        images: Inputs, each (B, C, H, W).
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over the images
            layer.train()
    for image in images:
        module(image)
    module.eval()


def image_channels(network: nn.Module) -> int:
    """Return how many channels a network's images have: as many as its first convolution takes."""
    pixels = 1
    for module in network.modules():
        if type(module).__name__ == 'Focus':  # YOLOX's stem makes channels of four pixels each
            pixels = 4
        if isinstance(module, nn.Conv2d):
            return module.in_channels // pixels
    return 3


def input_normalisation(cfg: Config, channels: int) -> tuple[list[float], list[float], str]:
    """Look up what a config's data preprocessor does to pixels of 0-255.

    Args:
        cfg: The config.
        channels: Of the images.

    Returns:
        Mean and standard deviation by channel, and the order of the channels: ``'RGB'``, ``'BGR'``,
        or ``'as loaded'`` if they are not three.
    """
    config = (cfg.get('model') or {}).get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    order = 'RGB' if config.get('bgr_to_rgb') or config.get('to_rgb') else 'BGR'
    mean, std = config.get('mean') or [0.0] * channels, config.get('std') or [1.0] * channels
    return list(mean), list(std), order if channels == 3 else 'as loaded'


def find_loader(cfg: Config) -> Any:
    """Find the step of a config's test pipeline that reads image files; None if there is none."""
    loader = cfg.get('test_dataloader') or {}
    for key, dataset in leaf_datasets('test_dataloader.dataset', loader.get('dataset')):
        for step in dataset.get('pipeline', ())[:1]:
            if find_type(TRANSFORMS, step, f'{key}.pipeline.0').__name__.startswith('Load'):
                return step
    return None  # no data, or data sets in one file


def image_reader(cfg: Config) -> Callable[[Path], np.ndarray]:
    """Build what reads an image file as a config's test pipeline does.

    Returns:
        A function from a file to pixels, (H, W) or (H, W, C), photographs in BGR. It raises a
        UserError for what it cannot read.
    """
    step = find_loader(cfg) or dict(type=LoadImageFromFile)
    load = build(TRANSFORMS, step, 'the loader of the test pipeline')
    return lambda path: read_image(path, lambda file: load(dict(img_path=file))['img'])


def to_input(pixels: np.ndarray, cfg: Config) -> Tensor:
    """Turn an image as it is loaded into a backbone's input, (1, C, H, W), as the config says."""
    image = torch.from_numpy(np.atleast_3d(pixels).astype(np.float32)).permute(2, 0, 1)
    mean, std, order = input_normalisation(cfg, len(image))
    if order == 'RGB':
        image = image.flip(0)
    return ((image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])[None]


def cut_square(pixels: np.ndarray, side: int) -> np.ndarray:
    """Resize an image and cut out its middle, (H, W) or (H, W, C) -> (side, side, C)."""
    bands = np.atleast_3d(pixels)
    bands = bands if bands.dtype == np.uint8 else bands.astype(np.float32)
    pictures = (Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(bands, 2, 0))
    return np.stack([np.array(ImageOps.fit(picture, (side, side))) for picture in pictures], 2)


def to_picture(pixels: np.ndarray) -> np.ndarray:
    """Show an image as it is loaded, (H, W) or (H, W, C), in RGB: the first three bands, or one."""
    bands = np.atleast_3d(pixels)
    bands = bands[..., [2, 1, 0] if bands.shape[2] > 2 else [0, 0, 0]]
    low, high = bands.min(), bands.max()
    if low < 0 or high > 255:  # more than 8 bits
        bands = (bands - float(low)) * (255 / float(high - low))
    return bands.astype(np.uint8)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """List the files among paths, and the image files directly in folders among them, by name.

    Raises:
        UserError: For what does not exist, and for folders without images.
    """
    found: list[Path] = []
    for path in paths:
        if not os.path.exists(path):  # nor can be, as with names that are too long
            raise UserError(f'image {str(path)!r} not found')
        inside = sorted(f for f in path.glob('*') if f.suffix.lower() in SUFFIXES)
        if path.is_dir() and not inside:
            raise UserError(f'no images ({", ".join(SUFFIXES)}) in folder {str(path)!r}')
        found += inside or [path]
    return found
