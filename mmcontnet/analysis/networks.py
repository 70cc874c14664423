"""Find and build the networks that the tools look at, from this project or from others."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ..engine import load_config
from ..errors import UserError

#: How the tools' help says what a network may be named by.
NETWORK_HELP = (
    'a config file, or one that mmdet, mmseg or mmpretrain installs, as in '
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py; an arch of this project for its ImageNet '
    "classifier, as in cont_m, cmt_s, cotnet50; or a model of mmpretrain's, as in "
    'resnet50_8xb32_in1k'
)


def build_model(cfg: Config, *, meta: bool = False) -> nn.Module:
    """Build the model of a config with random weights: nothing is loaded or downloaded.

    Args:
        cfg: Config of a detector, a segmenter or a classifier.
        meta: Build it without memory where its constructors can.

    Raises:
        UserError: If there is none, or it cannot be built.
    """
    if 'backbone' not in (cfg.get('model') or {}):
        raise UserError('the config has no model.backbone')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    if meta:
        try:
            with torch.device('meta'):
                return MODELS.build(deepcopy(cfg.model))
        # Swin's, for one, reads numbers from tensors. What is wrong on the CPU too is said below.
        except Exception:
            pass
    try:
        return MODELS.build(deepcopy(cfg.model))
    # The constructors of any package: whatever they raise is about the config.
    except Exception as error:
        reason = str(error).partition('\n')[0]
        raise UserError(f'the model cannot be built: {type(error).__name__}: {reason}') from error


class Network(nn.Module):
    """What a model computes for every image alike, without what depends on the image's contents.

    Of a classifier that is the whole network up to its scores, of a detector or a segmenter the
    backbone and the neck.

    Args:
        model: A model of mmdet, mmseg or mmpretrain; its parts are used, not copied.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        # One process: without its communication SyncBN is BatchNorm, which runs on a CPU too.
        self.backbone = revert_sync_batchnorm(model.backbone)
        self.neck = revert_sync_batchnorm(model.neck) if model.with_neck else None
        is_classifier = getattr(model, 'with_head', False) and not hasattr(model, 'decode_head')
        self.head = model.head if is_classifier else None

    def forward(self, x: Tensor) -> Tensor | Sequence[Tensor]:
        """Images, (B, 3, H, W), to class scores, (B, classes), or to feature maps."""
        x = self.backbone(x)
        if self.neck is not None:
            x = self.neck(x)
        return x if self.head is None else self.head(x)


def build_network(name: str) -> nn.Module:
    """Build the network of a config, or one of timm's, with random weights.

    Args:
        name: What :func:`mmcontnet.engine.load_config` takes, or ``timm:MODEL``.

    Returns:
        A network that takes images, (B, 3, H, W).

    Raises:
        UserError: If there is no such network.
    """
    if not name.startswith('timm:'):
        return Network(build_model(load_config(name)))
    try:
        from timm import create_model
    except ImportError as error:
        raise UserError('timm is not installed (pip install timm)') from error
    try:
        return create_model(name.removeprefix('timm:'))
    except RuntimeError as error:
        raise UserError(str(error)) from error
