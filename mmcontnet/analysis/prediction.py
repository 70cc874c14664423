"""Predictions on pictures, by each OpenMMLab package's own inference functions and visualisers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mmcv
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement

from ..checkpoint import load_checkpoint, safe_loading
from ..errors import UserError
from .networks import build_model

#: How many classes of a classifier's scores are told.
TOP = 5


class Predictor:
    """A detector, a segmenter or a classifier with its weights, for one picture at a time.

    Args:
        cfg: The config, as :func:`mmcontnet.engine.load_config` reads it.
        checkpoint: File with the weights, and in its meta data the names of the classes.
        device: Where to compute, e.g. ``'cpu'`` or ``'cuda:0'``.
        score_thr: Detections with a lower score are left out.

    Raises:
        UserError: If the config is of no package that is known, or the weights do not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str, score_thr: float) -> None:
        packages = {
            'mmdet': self._start_mmdet,
            'mmseg': self._start_mmseg,
            'mmpretrain': self._start_mmpretrain,
        }
        self.scope = cfg.get('default_scope')
        if self.scope not in packages:
            raise UserError(f'default_scope must be one of {", ".join(packages)}, not {self.scope}')
        self.score_thr = score_thr
        self.model: Any
        self.infer: Callable[[str], BaseDataElement]
        self.visualizer: Any  # not the config's, which would write to its backends too
        # The packages would merely warn.
        load_checkpoint(build_model(cfg, meta=True), checkpoint)
        with safe_loading():
            packages[self.scope](cfg, checkpoint, device)
        self.visualizer.dataset_meta = self.meta

    def _start_mmdet(self, cfg: Config, checkpoint: str, device: str) -> None:
        from mmdet.apis import inference_detector, init_detector
        from mmdet.visualization import DetLocalVisualizer

        self.visualizer = DetLocalVisualizer()
        self.model = init_detector(cfg, checkpoint, device=device)
        self.meta = self.model.dataset_meta
        self.infer = lambda image: inference_detector(self.model, image)

    def _start_mmseg(self, cfg: Config, checkpoint: str, device: str) -> None:
        from mmengine.model import revert_sync_batchnorm
        from mmseg.apis import inference_model, init_model
        from mmseg.visualization import SegLocalVisualizer

        self.visualizer = SegLocalVisualizer(alpha=0.5)  # the image shows through
        # Which the package's configs name, and its inference reads.
        if 'test_pipeline' not in cfg:
            cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
        self.model = revert_sync_batchnorm(init_model(cfg, checkpoint, device=device))
        self.meta = self.model.dataset_meta
        self.infer = lambda image: inference_model(self.model, image)

    def _start_mmpretrain(self, cfg: Config, checkpoint: str, device: str) -> None:
        from mmpretrain.apis import ImageClassificationInferencer
        from mmpretrain.visualization import UniversalVisualizer

        self.visualizer = UniversalVisualizer()
        inferencer = ImageClassificationInferencer(cfg, pretrained=checkpoint, device=device)
        self.model = inferencer.model
        self.meta = dict(classes=inferencer.classes)
        self.infer = lambda image: inferencer.forward(next(inferencer.preprocess([image])))[0]

    def __call__(self, image: Path, picture: Path) -> list[dict[str, Any]]:
        """Predict, and draw the prediction on the image.

        Args:
            image: File.
            picture: File to write; its suffix says the format.

        Returns:
            What is seen, with ``label`` and ``score``. From a detector: boxes (x1, y1, x2, y2 in
            pixels), and masks run-length encoded as in COCO, best first. From a segmenter: the
            classes that are there, with their ``share`` of the pixels instead of a score. From a
            classifier: the best ``TOP`` classes.
        """
        with torch.no_grad():
            sample = self.infer(str(image))
        pixels = mmcv.imread(str(image), channel_order='rgb')
        out = dict(draw_gt=False, out_file=str(picture))
        if self.scope == 'mmdet':
            out['pred_score_thr'] = self.score_thr
        if self.scope == 'mmpretrain':
            self.visualizer.visualize_cls(pixels, sample, classes=self.meta['classes'], **out)
            return self._list_classes(sample)
        self.visualizer.add_datasample(image.name, pixels, sample, **out)
        return self._list_instances(sample) if self.scope == 'mmdet' else self._list_areas(sample)

    def _label(self, index: Any) -> str:
        classes = self.meta.get('classes')
        return classes[int(index)] if classes else str(int(index))

    def _list_instances(self, sample: Any) -> list[dict[str, Any]]:
        instances = sample.pred_instances.cpu()
        instances = instances[instances.scores >= self.score_thr]
        found = [
            dict(label=self._label(label), score=float(score), box=box.tolist())
            for label, score, box in zip(
                instances.labels, instances.scores, instances.bboxes, strict=True
            )
        ]
        if 'masks' in instances:
            from mmdet.structures.mask import encode_mask_results

            for instance, mask in zip(
                found, encode_mask_results(instances.masks.numpy()), strict=True
            ):
                instance['mask'] = dict(size=mask['size'], counts=mask['counts'].decode())
        return found

    def _list_areas(self, sample: Any) -> list[dict[str, Any]]:
        labels, counts = sample.pred_sem_seg.data.unique(return_counts=True)
        shares = counts / counts.sum()
        areas = [
            dict(label=self._label(label), share=float(share))
            for label, share in zip(labels, shares, strict=True)
        ]
        return sorted(areas, key=lambda area: -area['share'])

    def _list_classes(self, sample: Any) -> list[dict[str, Any]]:
        best = sample.pred_score.topk(min(TOP, len(sample.pred_score)))
        return [
            dict(label=self._label(label), score=float(score))
            for score, label in zip(*best, strict=True)
        ]


def describe(seen: Sequence[dict[str, Any]]) -> str:
    """Say in a few words what :class:`Predictor` returned."""
    if not seen:
        return 'nothing'
    if 'box' in seen[0]:
        counts = Counter(instance['label'] for instance in seen)
        return ', '.join(f'{count} x {label}' for label, count in counts.most_common())
    return ', '.join(f'{s["label"]} {s.get("score", s.get("share")):.2f}' for s in seen[:TOP])
