"""Networks as ONNX files that other runtimes can load."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from ..builders import build_model, network_errors
from ..checkpoint import load_checkpoint, read_dataset_meta
from ..errors import UserError
from .deployment import WholeNetwork, describe_image, describe_network
from .inspection import image_channels, input_normalisation
from .report import replacing

#: Largest difference to PyTorch, as a part of the largest value of an output.
MAX_ERROR = 1e-3

#: Of an ONNX file's ``metadata_props``: how it was made, as JSON.
METADATA = 'mmcontnet'


class _RawNetwork(nn.Module):
    """A network from a normalised image to logits, or to the maps of a detector's neck."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Any:
        if hasattr(self.model, 'encode_decode'):
            return self.model.encode_decode(image, describe_image(image.shape[2:]))
        if getattr(self.model, 'with_head', False):
            return self.model(image, mode='tensor')
        return self.model.extract_feat(image)


def check_packages(*names: str) -> None:
    """Check that packages of the extra ``export`` are installed.

    Raises:
        UserError: Naming those that are not.
    """
    if missing := [name for name in names if find_spec(name) is None]:
        raise UserError(f"no {' and no '.join(missing)}: install this package's extra 'export'")


def export_onnx(
    cfg: Config,
    checkpoint: str | None,
    shape: tuple[int, int],
    path: Path,
    *,
    raw: bool = False,
    dtype: torch.dtype = torch.float32,
    dynamic_batch: bool = False,
) -> dict[str, Any]:
    """Write a network as ONNX for images of a fixed size, and compare it with PyTorch.

    A file takes pixels and returns what :class:`.WholeNetwork` says. Its ``metadata_props`` hold,
    under ``METADATA``, the first five entries of the result as JSON.

    Args:
        cfg: The config, as :func:`mmcontnet.engine.load_config` reads it.
        checkpoint: File with the weights; None leaves them random.
        shape: Height and width of the image in pixels.
        path: File to write, if the comparison is good.
        raw: Write the part before scores, maps and boxes, for an image that is normalised: logits
            of classifiers, (1, classes), and of segmenters, (1, classes, H, W), and the maps of a
            detector's neck, one a level.
        dtype: Of the pixels: ``torch.float32`` or ``torch.uint8``.
        dynamic_batch: Take any number of images instead of one.

    Returns:
        ``input`` (name, shape, dtype, and the mean, standard deviation and channel order of the
        normalisation, which ``raw`` files leave to their users), ``outputs`` (name and shape),
        ``raw``, ``network`` (see :func:`.describe_network`), ``dataset_meta`` (``classes``, their
        names, and ``palette``, as far as the checkpoint has them), ``opset``, and ``max_error``:
        the largest difference to PyTorch on a random image, relative to the largest value of the
        same output.

    Raises:
        UserError: If a package is missing, the network cannot be exported, or the file differs from
            PyTorch by more than ``MAX_ERROR``.
    """
    check_packages('onnxruntime', 'onnxscript')
    from onnxscript import ir

    model = revert_sync_batchnorm(build_model(cfg))
    meta: dict[str, Any] = {}
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
        meta = read_dataset_meta(checkpoint)
    size = 2 if dynamic_batch else 1, image_channels(model), *shape
    generator = torch.Generator().manual_seed(0)
    network: nn.Module
    if raw:
        network, image = _RawNetwork(model), torch.randn(size, generator=generator)
    else:
        network = WholeNetwork(model, cfg.get('default_scope'))
        image = torch.randint(256, size, generator=generator).to(dtype)
        if dynamic_batch and not network.any_batch:
            raise UserError(
                f'{type(model).__name__} takes no dynamic batch: mmdet and mmpretrain find boxes, '
                'and scores that are no softmax, image by image; --raw takes one'
            )
    inputs = dict(image=image)
    if not raw and cfg.get('default_scope') == 'mmdet':
        inputs['size'] = torch.tensor(shape)
    batch: Any = dict(image={0: torch.export.Dim('batch')}) if dynamic_batch else None
    network.eval()
    with network_errors('the network cannot be exported'), torch.no_grad():
        result = network(*inputs.values())
        expected = list(result) if isinstance(result, list | tuple) else [result]
        names = getattr(network, 'names', [f'output{i}' for i in range(len(expected))])
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            # First without ONNX: while it is at work, mmdet computes boxes by code that is lost.
            exported = torch.export.export(network, tuple(inputs.values()), dynamic_shapes=batch)
            program = torch.onnx.export(
                exported,
                dynamo=True,
                input_names=list(inputs),
                output_names=names,
                dynamic_shapes=batch,
            )
        assert program is not None  # what dynamo=True returns
        actual = program(*inputs.values())  # computed by onnxruntime
    if 'boxes' in names:
        actual, expected = _pair(actual, expected)
    max_error = max(
        # Not 0, and small beside the scores of a classifier that knows nothing, 1 / classes.
        float((a - e).abs().max() / e.abs().max().clamp_min(1e-6)) if len(e) else 0.0
        for a, e in zip(actual, expected, strict=True)
    )
    if not max_error <= MAX_ERROR:  # NaN included
        raise UserError(f'ONNX differs from PyTorch by {max_error:.1e}, nothing is written')
    mean, std, order = input_normalisation(cfg, size[1])
    described = dict(
        input=dict(
            name='image',
            shape=['N' if dynamic_batch else 1, *size[1:]],
            dtype=str(image.dtype).removeprefix('torch.'),
            mean=mean,
            std=std,
            order=order,
        ),
        outputs=[
            dict(name=n, shape=[s if isinstance(s, int) else 'N' for s in value.shape or ()])
            for n, value in zip(names, program.model.graph.outputs, strict=True)
        ],
        raw=raw,
        network=describe_network(model, cfg),
        dataset_meta={k: np.asarray(meta[k]).tolist() for k in ('classes', 'palette') if k in meta},
    )
    program.model.metadata_props[METADATA] = json.dumps(described)
    graph = program.model.graph
    if 'size' in inputs:  # an input with an initial value may be left out
        graph.inputs[1].const_value = ir.tensor(inputs['size'].numpy(), name='size')
        graph.initializers.add(graph.inputs[1])
    with replacing(path) as partial:
        program.save(partial, external_data=False)
    return dict(**described, opset=program.model.opset_imports[''], max_error=max_error)


def _pair(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
    """Put detections in the order of those that they are the nearest to: equal scores may swap."""
    (boxes, _, labels, *_), (others, _, other_labels, *_) = actual, expected
    if len(boxes) != len(others):
        raise UserError(
            f'ONNX finds {len(boxes)} objects in a random image and PyTorch {len(others)}, '
            'nothing is written'
        )
    distance = (others[:, None] - boxes).abs().sum(2)
    distance[other_labels[:, None] != labels] = torch.inf
    nearest = distance.argmin(1) if len(boxes) else labels
    return [part[nearest] for part in actual], list(expected)
