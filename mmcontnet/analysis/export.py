"""Networks as ONNX files that other runtimes can load."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from ..builders import build_model, network_errors
from ..checkpoint import load_checkpoint
from ..errors import UserError
from .inspection import image_channels, input_normalisation
from .report import replacing

#: Largest difference to PyTorch, as a part of the largest output (or of 1, if that is larger).
MAX_ERROR = 1e-3


class _Exported(nn.Module):
    """What a file computes: tensors in, tensors out."""

    def __init__(self, model: Any, shape: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.metas = [dict(img_shape=shape, pad_shape=shape, ori_shape=shape)]

    def forward(self, image: Tensor) -> Any:
        if hasattr(self.model, 'encode_decode'):
            return self.model.encode_decode(image, self.metas)
        if getattr(self.model, 'with_head', False):
            return self.model(image, mode='tensor')
        return self.model.extract_feat(image)


def export_onnx(
    cfg: Config, checkpoint: str | None, shape: tuple[int, int], path: Path
) -> dict[str, Any]:
    """Write a network as ONNX for one image of a fixed size, and compare it with PyTorch.

    Classifiers give their logits, (1, classes), and segmenters the logits of every pixel,
    (1, classes, H, W). Of detectors, backbone and neck are written, which give a map a level: what
    turns maps into boxes depends on the runtime, and is mmdeploy's business.

    Args:
        cfg: The config, as :func:`mmcontnet.engine.load_config` reads it.
        checkpoint: File with the weights; None leaves them random.
        shape: Height and width of the image in pixels.
        path: File to write, if the comparison is good.

    Returns:
        ``input`` (name, shape, and the mean, standard deviation and channel order that the image
        has to be normalised with), ``outputs`` (name and shape), ``opset``, and ``max_error``: the
        largest difference to PyTorch on a random image, relative to the largest output, or to 1 if
        that is larger.

    Raises:
        UserError: If a package is missing, the network cannot be exported, or the file differs from
            PyTorch by more than ``MAX_ERROR``.
    """
    if missing := [name for name in ('onnxruntime', 'onnxscript') if find_spec(name) is None]:
        raise UserError(f"no {' and no '.join(missing)}: install this package's extra 'export'")
    model = revert_sync_batchnorm(build_model(cfg))
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    network = _Exported(model, shape).eval()
    size = 1, image_channels(model), *shape
    image = torch.randn(size, generator=torch.Generator().manual_seed(0))
    with network_errors('the network cannot be exported'), torch.no_grad():
        result = network(image)
        expected = list(result) if isinstance(result, list | tuple) else [result]
        names = [f'output{i}' for i in range(len(expected))]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            program = torch.onnx.export(
                network, (image,), dynamo=True, input_names=['image'], output_names=names
            )
        assert program is not None  # what dynamo=True returns
        actual = program(image)  # computed by onnxruntime
    max_error = max(
        float((a - e).abs().max() / e.abs().max().clamp_min(1))
        for a, e in zip(actual, expected, strict=True)
    )
    if not max_error <= MAX_ERROR:  # NaN included
        raise UserError(f'ONNX differs from PyTorch by {max_error:.1e}, nothing is written')
    with replacing(path) as partial:
        program.save(partial, external_data=False)
    mean, std, order = input_normalisation(cfg, size[1])
    return dict(
        input=dict(name='image', shape=list(size), mean=mean, std=std, order=order),
        outputs=[dict(name=n, shape=list(e.shape)) for n, e in zip(names, expected, strict=True)],
        opset=program.model.opset_imports[''],
        max_error=max_error,
    )
