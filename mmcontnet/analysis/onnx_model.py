"""Files of :func:`.export_onnx` in place of the network, for evaluation by mmengine's runner."""

from __future__ import annotations

import json
import os
from functools import cached_property
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..builders import build_model
from ..errors import UserError
from .deployment import describe_network
from .export import METADATA, check_packages


def open_onnx(file: str) -> tuple[Any, dict[str, Any]]:
    """Open an ONNX file of a whole network.

    Returns:
        onnxruntime's session, and what :func:`.export_onnx` says of the file.

    Raises:
        UserError: If it cannot be read, or is not of a whole network that this project wrote.
    """
    check_packages('onnxruntime')
    import onnxruntime

    if os.path.isdir(file):
        raise UserError(f'{file!r} is a folder, not a file')
    if not os.path.isfile(file):
        raise UserError(f'file {file!r} not found')
    try:
        session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    except Exception as error:  # onnxruntime's classes have no base of their own
        reason = str(error).partition('\n')[0]
        raise UserError(f'file {file!r} cannot be read: {reason}') from error
    described = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if described is None:
        raise UserError(f'file {file!r} was not written by tools/export_onnx.py')
    described = json.loads(described)
    if described['raw']:
        raise UserError(f'file {file!r} is not of a whole network: export without --raw')
    return session, described


def is_onnx(checkpoint: str) -> bool:
    """Tell whether a file is a whole network instead of a checkpoint."""
    return checkpoint.lower().endswith('.onnx')


def use_onnx(cfg: Config, file: str) -> None:
    """Put an ONNX file in the place of a config's network."""
    network = {key: cfg.pop(key) for key in ('model', 'data_preprocessor') if key in cfg}
    network['default_scope'] = cfg.get('default_scope')
    cfg.model = ConfigDict(type='OnnxModel', file=file, network=network)


def check_onnx(cfg: Config, model: nn.Module, file: str) -> dict[str, Any]:
    """Check that a file is of a config's network, as far as the file tells.

    Args:
        cfg: The config.
        model: Its model, which may be on the meta device.
        file: The ONNX file.

    Returns:
        What :func:`.export_onnx` says of the file.

    Raises:
        UserError: Naming the first difference.
    """
    described = open_onnx(file)[1]
    of_file = described['network']
    for key, value in describe_network(model, cfg).items():
        if (found := of_file.get(key)) != value:
            raise UserError(
                f'file {file!r} is of another network ({key}: {found}; of the config: {value})'
            )
    return described


@MODELS.register_module()
class OnnxModel(BaseModel):
    """Predicts with an ONNX file as mmpretrain, mmseg and mmdet do with their models.

    Args:
        file: Written by :func:`.export_onnx`.
        network: The part of the config that describes the network, whose methods resize logits
            and paste masks.
        data_preprocessor: None, which mmpretrain gives to every model.
    """

    def __init__(self, file: str, network: dict[str, Any], data_preprocessor: None = None) -> None:
        super().__init__()
        self.file, self.network = file, network

    @cached_property
    def _opened(self) -> tuple[Any, dict[str, Any]]:
        return open_onnx(self.file)  # not before: mmengine's hooks may copy a model

    @cached_property
    def _network(self) -> Any:
        return build_model(Config(self.network), meta=True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: the file only predicts."""
        raise NotImplementedError('an ONNX file only predicts')

    def test_step(self, data: Any) -> list[Any]:
        """Predict.

        Args:
            data: ``inputs``, images (C, H, W), and ``data_samples``, as they leave the pipeline.

        Returns:
            The samples with their predictions.

        Raises:
            UserError: If an image is larger than those that the file takes, or, of a classifier,
                smaller.
        """
        scope = self._opened[1]['network']['scope']
        write = dict(mmpretrain=self._classify, mmseg=self._segment, mmdet=self._detect)[scope]
        for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
            write(sample, image)
        return data['data_samples']

    def _run(
        self, image: Tensor, *outputs: str, padded: bool = True, **inputs: np.ndarray
    ) -> list[Tensor]:
        session, described = self._opened
        taken = described['input']
        _, channels, height, width = taken['shape']
        own_height, own_width = image.shape[1:]
        # A grey image becomes three equal channels, as in mmpretrain's normalisation.
        fits = own_height <= height and own_width <= width and len(image) in (1, channels)
        if not fits or not padded and (own_height, own_width) != (height, width):
            raise UserError(
                f'file {self.file!r} takes images of {channels} x {height} x {width} (channels, '
                f'height, width){" or smaller ones" if padded else ""}, got one of '
                f'{len(image)} x {own_height} x {own_width}'
            )
        # What normalisation makes 0, with which mmdet and mmseg pad.
        mean = np.array(taken['mean'][:: -1 if taken['order'] == 'RGB' else 1])
        if taken['dtype'] == 'uint8':
            mean = mean.round()
        pixels = np.empty((1, channels, height, width), taken['dtype'])
        pixels[:] = mean[:, None, None]
        pixels[0, :, :own_height, :own_width] = image.numpy()
        found = session.run(list(outputs), {taken['name']: pixels, **inputs})
        return [torch.from_numpy(value) for value in found]

    def _classify(self, sample: Any, image: Tensor) -> None:
        (scores,) = self._run(image, 'scores', padded=False)
        sample.set_pred_score(scores[0]).set_pred_label(scores[0].argmax())

    def _segment(self, sample: Any, image: Tensor) -> None:
        (logits,) = self._run(image, 'logits')
        padding = logits.shape[3] - image.shape[2], logits.shape[2] - image.shape[1]
        sample.set_metainfo(dict(img_padding_size=(0, padding[0], 0, padding[1])))
        self._network.postprocess_result(logits, [sample])

    def _detect(self, sample: Any, image: Tensor) -> None:
        from mmdet.models.utils import samplelist_boxtype2tensor

        names = [output['name'] for output in self._opened[1]['outputs']]
        size = np.array(sample.img_shape[:2])
        boxes, scores, labels, *masks = self._run(image, *names, size=size)
        found = InstanceData(scores=scores, labels=labels)
        if masks and len(boxes):
            roi_head = self._network.roi_head
            head: Any = roi_head.mask_head
            head = head[-1] if isinstance(head, nn.ModuleList) else head  # of a cascade
            # The class was chosen in the file.
            grids, first, meta = masks[0][:, None], torch.zeros_like(labels), sample.metainfo
            found.masks = head._predict_by_feat_single(
                grids,
                boxes.clone(),
                first,
                meta,
                roi_head.test_cfg,
                rescale=True,
                activate_map=True,
            )
        elif masks:
            found.masks = torch.zeros(0, *sample.ori_shape[:2], dtype=torch.bool)
        found.bboxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
        sample.pred_instances = found
        samplelist_boxtype2tensor([sample])  # for metrics and visualisers
