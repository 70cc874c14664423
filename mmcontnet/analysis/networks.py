"""Build networks by name, of this project or of others, for the tools that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from ..builders import build_model
from ..engine import load_config

#: How the tools' help says what a network may be named by.
NETWORK_HELP = (
    'a config file, or one that mmdet, mmseg or mmpretrain installs, as in '
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py; a variant of this project for its '
    "ImageNet classifier, as in cont_m, cmt_s, cotnet50; or a model of mmpretrain's, as in "
    'resnet50_8xb32_in1k'
)


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
        """Images, (B, C, H, W), to class scores, (B, classes), or to feature maps."""
        x = self.backbone(x)
        if self.neck is not None:
            x = self.neck(x)
        return x if self.head is None else self.head(x)


def build_network(name: str) -> nn.Module:
    """Build the network of a config as :func:`mmcontnet.engine.load_config` takes it.

    Raises:
        UserError: If there is no such network.
    """
    return Network(build_model(load_config(name)))
