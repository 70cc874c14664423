"""A training that takes a moment, through mmengine's runner, and what is random in it."""

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS

from mmcontnet.engine import ResumePoint, runner_of

_NUMBERS = itertools.count()

#: The message hub that mmengine keeps in the checkpoint of a training that has just begun.
HUB: dict[str, dict] = dict.fromkeys(('log_scalars', 'runtime_info', 'resumed_keys'), {})


@DATASETS.register_module()
class Noise(BaseDataset):
    """Eight samples: index, and a number of each generator."""

    def load_data_list(self) -> list[dict[str, Any]]:
        return [dict(width=1, height=1) for _ in range(8)]

    def prepare_data(self, index: int) -> dict[str, torch.Tensor]:
        drawn = random.random(), np.random.rand(), torch.rand(()).item()
        return dict(samples=torch.tensor([index, *drawn]))


@MODELS.register_module()
class Recorder(BaseModel):
    """Learns two numbers; ``seen`` has each iteration's samples and a number of its own."""

    seen: list[Any] = []

    def __init__(self, data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.other = torch.nn.Parameter(torch.zeros(()))

    def forward(self, samples: torch.Tensor, mode: str) -> Any:
        if mode == 'predict':
            return [0]
        self.seen.append((samples.tolist(), torch.rand(()).item()))
        return dict(loss=(self.weight + self.other) * samples.sum())


@METRICS.register_module()
class Scripted(BaseMetric):
    """Gives the scores that a test sets, one each validation; an exception is raised."""

    scores: list[Any] = []

    def process(self, *args: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        score = self.scores.pop(0) if self.scores else 0.0
        if isinstance(score, BaseException):
            raise score
        return dict(score=score, other=score)


def tiny_config(work_dir: Path, by_epoch: bool = True, **changes: Any) -> Config:
    """Write a config of three times four iterations, saved and validated after each four."""
    loops = [
        dict(type='IterBasedTrainLoop', max_iters=12, val_interval=4),
        dict(type='EpochBasedTrainLoop', max_epochs=3),
    ]
    checkpoint = dict(type='CheckpointHook', interval=1 if by_epoch else 4, by_epoch=by_epoch)
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler'),
        dataset=dict(type='Noise', serialize_data=False),  # which collects garbage
        collate_fn=dict(type='default_collate'),
    )
    cfg = Config(
        dict(
            model=dict(type='Recorder'),
            work_dir=str(work_dir),
            launcher='none',
            train_dataloader=loader,
            val_dataloader=loader,
            val_evaluator=dict(type='Scripted'),
            train_cfg=loops[by_epoch],
            val_cfg=dict(),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(checkpoint=checkpoint),
            randomness=dict(seed=0),
            log_level='ERROR',
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


def train(cfg: Config, resume: ResumePoint | None = None) -> list[Any]:
    """Train, and return what the model has seen."""
    # mmengine's message hubs are shared by name, and differ by the second only.
    cfg.experiment_name = f'run {next(_NUMBERS)}'
    Recorder.seen.clear()
    with runner_of(cfg, resume) as runner:
        runner.train()
    return list(Recorder.seen)
