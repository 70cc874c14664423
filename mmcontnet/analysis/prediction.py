"""Predictions on images, by the inferencers of mmdet, mmseg and mmpretrain."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image

from ..builders import build_model, network_errors
from ..checkpoint import load_checkpoint, safe_loading
from ..errors import UserError
from .inspection import find_loader, image_reader, to_picture
from .onnx_model import check_onnx, is_onnx, use_onnx

#: How many classes of a classifier's scores are told.
TOP = 5

#: By package: its inferencer, and a visualiser without the outputs that the config's may have.
INFERENCERS = dict(
    mmdet=('DetInferencer', dict(type='DetLocalVisualizer')),
    mmseg=('MMSegInferencer', dict(type='SegLocalVisualizer')),
    mmpretrain=('ImageClassificationInferencer', dict(type='UniversalVisualizer')),
)


class Predictor:
    """A detector, a segmenter or a classifier with its weights, for one image at a time.

    Args:
        cfg: The config, as :func:`mmcontnet.engine.load_config` reads it.
        checkpoint: File with the weights, and in its meta data the names of the classes; or an ONNX
            file of :func:`.export_onnx`, which is computed on the CPU.
        device: Where to compute, e.g. ``'cpu'`` or ``'cuda:0'``.
        score_thr: Detections with a lower score are left out.

    Raises:
        UserError: If the config is of no package that is known, or the weights do not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str, score_thr: float) -> None:
        self.scope = cfg.get('default_scope')
        if self.scope not in INFERENCERS:
            raise UserError(f'default_scope must be mmdet, mmseg or mmpretrain, not {self.scope}')
        self.score_thr = score_thr
        model: Any = build_model(cfg, meta=True)
        described = check_onnx(cfg, model, checkpoint) if is_onnx(checkpoint) else None
        if described is None:
            load_checkpoint(model, checkpoint)  # the packages would merely warn
        self.read = image_reader(cfg)
        if loader := find_loader(cfg):  # the inferencers get pixels, and know no other loader
            loader.clear()
            loader.type = 'LoadImageFromFile'
        name, cfg.visualizer = INFERENCERS[self.scope]
        # What a checkpoint notes of its data may be anything.
        with (
            network_errors(f'checkpoint {checkpoint!r}'),
            safe_loading(),
            redirect_stdout(io.StringIO()),  # mmengine prints that it reads the file
            TemporaryDirectory() as folder,
        ):
            if described is not None:
                use_onnx(cfg, checkpoint)
                device, checkpoint = 'cpu', f'{folder}/meta.pth'
                # From where the inferencers take names and colours of the classes.
                meta = described['dataset_meta']
                meta = dict(dataset_meta=meta) if meta else {}
                torch.save(dict(state_dict={}, meta=meta), checkpoint)
            inferencer = getattr(import_module(f'{self.scope}.apis'), name)
            self.inferencer = inferencer(cfg, checkpoint, device=device)
            self.inferencer.show_progress = False
            model = self.inferencer.model
            meta = model._dataset_meta if self.scope == 'mmpretrain' else model.dataset_meta
            self.classes = meta.get('classes')

    def __call__(self, image: Path) -> tuple[list[dict[str, Any]], Image.Image]:
        """Predict, and draw the prediction on the image.

        Args:
            image: File.

        Returns:
            What is seen, with ``label`` and ``score``, and the picture. From a detector: boxes (x1,
            y1, x2, y2 in pixels), and masks run-length encoded as in COCO, best first. From a
            segmenter: the classes that are there, with their ``share`` of the pixels instead of a
            score. From a classifier: the best ``TOP`` classes.

        Raises:
            UserError: If the network cannot take the image.
        """
        pixels = self.read(image)
        with network_errors(f'image {str(image)!r}'), TemporaryDirectory() as folder:
            try:
                found = self.inferencer(pixels, return_datasamples=True)
            except UserError as error:  # of an ONNX file for images of another size
                raise UserError(f'image {str(image)!r}: {error}') from error
            options: dict[str, Any]
            if self.scope == 'mmdet':
                found = found['predictions']
                seen = self._list_instances(self.inferencer.pred2dict(found[0]))
                options = dict(return_vis=True, pred_score_thr=self.score_thr)
            elif self.scope == 'mmseg':
                seen, found = self._list_areas(found.pred_sem_seg.data[0].cpu().numpy()), [found]
                options = dict(return_vis=True, opacity=0.5)  # half the image shows through
            else:  # it only draws into folders
                seen = self._list_classes(found[0].pred_score.cpu().numpy())
                options = dict(show_dir=folder)
            (picture,) = self.inferencer.visualize([to_picture(pixels)], found, **options)
        return seen, Image.fromarray(picture)

    def _label(self, index: int) -> str:
        label = str(self.classes[index] if self.classes else index)
        return label if label.isprintable() else repr(label)  # a terminal would obey it

    def _list_instances(self, prediction: dict[str, list]) -> list[dict[str, Any]]:
        names = dict(labels='label', scores='score', bboxes='box', masks='mask')
        # A panoptic detector also gives a map, which holds no instances.
        known = {names[key]: values for key, values in prediction.items() if key in names}
        found = [dict(zip(known, v, strict=True)) for v in zip(*known.values(), strict=True)]
        for instance in found:
            instance['label'] = self._label(instance['label'])
        return [instance for instance in found if instance['score'] >= self.score_thr]

    def _list_areas(self, labels: np.ndarray) -> list[dict[str, Any]]:
        areas = Counter(labels.flatten().tolist()).most_common()
        return [dict(label=self._label(i), share=count / labels.size) for i, count in areas]

    def _list_classes(self, scores: np.ndarray) -> list[dict[str, Any]]:
        best = np.argsort(-scores)[:TOP].tolist()
        return [dict(label=self._label(i), score=float(scores[i])) for i in best]


def describe(seen: Sequence[dict[str, Any]]) -> str:
    """Say in a few words what :class:`Predictor` returned."""
    if not seen:
        return 'nothing'
    if 'box' in seen[0]:
        counts = Counter(instance['label'] for instance in seen)
        return ', '.join(f'{count} x {label}' for label, count in counts.most_common())
    return ', '.join(f'{s["label"]} {s.get("score", s.get("share")):.2f}' for s in seen[:TOP])
