"""Find and check the checkpoint that a run resumes from, and run a validation that it missed."""

from __future__ import annotations

import os
import re
from bisect import bisect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn

from ..builders import build_model, parts_of
from ..checkpoint import find_fault, load_weights, read_checkpoint, unwrap
from ..errors import CheckpointError, UserError, WeightMismatchError
from .components import build_optimization
from .distributed import number_of_processes


class ResumePoint(NamedTuple):
    """Where to resume.

    Attributes:
        checkpoint: The file.
        randomness: The config's, with the seed of the run that is resumed.
        warnings: What is wrong with newer checkpoints, and what the config has changed.
    """

    checkpoint: str
    randomness: dict[str, Any]
    warnings: list[str]


def find_resume_point(cfg: Config, checkpoint: str | None = None) -> ResumePoint | None:
    """Choose the checkpoint to resume from, and check that the config's model can take it.

    Args:
        cfg: The whole config.
        checkpoint: The file; None takes the newest intact one in the config's ``work_dir``: the
            one that ``last_checkpoint`` there names, else the one written before it, and so on.

    Returns:
        None if there is no checkpoint in ``work_dir``.

    Raises:
        UserError: If all checkpoints there are broken, or the given one is; if the weights are
            not those of the model, or the states those of other optimizers or schedulers; or if
            the folder cannot be read.
    """
    warnings: list[str] = []
    for path in [checkpoint] if checkpoint else _candidates(Path(cfg.work_dir), warnings):
        try:
            content = _read(path)
        except CheckpointError as error:
            if checkpoint:
                raise
            warnings.append(str(error))
            continue
        if warnings:
            warnings.append(f'resuming from {path!r}')
        if cfg.get('model'):
            model = _check_weights(cfg, content['state_dict'], path)
            known = content['message_hub'].get('runtime_info') or {}
            warnings += _changes(known.get('settings'), settings_of(cfg), path)
            _check_optimization(cfg, model, content, path)
        randomness = dict(cfg.get('randomness') or {})
        if (seed := content['meta'].get('seed')) is not None:
            # mmengine would take it too late, with the order of the samples already drawn.
            if (given := randomness.get('seed', seed)) not in (None, seed):
                warnings.append(f'resuming with seed {seed} of {path!r}, not {given} of the config')
            randomness['seed'] = seed
        return ResumePoint(path, randomness, warnings)
    if warnings:
        raise UserError(f'cannot resume: {"; ".join(warnings)}')
    return None


def _candidates(work_dir: Path, warnings: list[str]) -> Iterator[str]:
    """Go through the checkpoints of a work dir, the newest first; older ones are read to sort them.

    There may be some of an earlier run: older ones, and all of a later step than the noted one.
    """
    try:
        last, steps = _list_checkpoints(work_dir, warnings)
        if last is not None:
            yield str(last)
        yield from map(str, _newest_first(steps))
    except OSError as error:
        raise UserError(f'cannot read {error.filename!r}: {error.strerror}') from error


def _list_checkpoints(work_dir: Path, warnings: list[str]) -> tuple[Path | None, dict[Path, int]]:
    """Return the checkpoint that ``last_checkpoint`` names, if any, and the steps of the others."""
    if os.path.lexists(work_dir) and not work_dir.is_dir():
        raise UserError(f'work dir {str(work_dir)!r} is no folder')
    note = work_dir / 'last_checkpoint'
    noted = note.read_text(errors='replace').strip() if note.is_file() else None
    last = work_dir / Path(noted or '').name  # also if the folder was moved
    if noted and not os.path.isfile(last):
        last = Path(noted)  # by the out_dir of the hook
    folder = last.parent if os.path.isfile(last) else work_dir
    steps = {
        path: int(match[1])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', path.name))
    }
    if os.path.isfile(last):
        return last, {path: step for path, step in steps.items() if step < steps.get(last, 0)}
    if noted is not None:
        fault = f'names {noted!r}, which is not a file' if noted else 'is empty'
        warnings.append(f'{str(note)!r} {fault}')
    return None, steps


def _newest_first(steps: Mapping[Path, int]) -> list[Path]:
    """Sort by time of writing, and the checkpoints of a run by their steps: clocks may go back."""
    runs = {path: str(path) for path in steps}
    written: dict[str, float] = {}
    for path in steps:
        with suppress(CheckpointError, KeyError, TypeError):  # told when its turn comes
            content = read_checkpoint(path, mmap=True)
            runs[path] = str(content['message_hub']['runtime_info']['run'])
        time = path.lstat().st_mtime
        written[runs[path]] = max(time, written.get(runs[path], time))
    return sorted(steps, key=lambda path: (written[runs[path]], steps[path]), reverse=True)


def _check_weights(cfg: Config, state: Mapping[str, Any], path: str) -> nn.Module:
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor) or not isinstance(k, str)}
    if fault := find_fault(tensors):
        raise UserError(f'cannot resume from {path!r}: {fault}')
    weights = unwrap(tensors)
    model = build_model(cfg, meta=True)
    try:
        load_weights(model, weights, f'checkpoint {path!r}')
    except WeightMismatchError as error:
        raise UserError(str(error)) from error  # --allow-missing does not help
    for name, tensor in model.state_dict().items():
        # Loading can resize weights, but nothing resizes the optimizer's state of them.
        if name in weights and weights[name].shape != tensor.shape:
            raise UserError(
                f'cannot resume from {path!r}: {name} is {tuple(weights[name].shape)} there and '
                f'{tuple(tensor.shape)} here, as for another img_size'
            )
    return model


def _check_optimization(cfg: Config, model: nn.Module, content: Any, path: str) -> None:
    """Check that optimizer and schedulers can go on: PyTorch and mmengine would take others'."""
    optimizer, schedulers = build_optimization(cfg, model)
    if optimizer is None:
        return
    # What loading takes out of it stays in the content.
    state = {k: {**v} if isinstance(v, Mapping) else v for k, v in content['optimizer'].items()}
    cannot = f'cannot resume from {path!r}: its optimizer is not the optim_wrapper of the config'
    try:
        optimizer.load_state_dict(state)
    except Exception as error:  # whatever another optimizer's state leads to
        raise UserError(f'{cannot}: {error}') from error
    several = isinstance(optimizer, OptimWrapperDict)
    for wrapper in optimizer.values() if several else [optimizer]:
        for group in wrapper.param_groups:
            if missing := sorted(wrapper.optimizer.defaults.keys() - group.keys()):
                raise UserError(f'{cannot}: it has no {", ".join(missing)}')
    saved = [set(state) for state in content.get('param_schedulers', []) if not several]
    here = [set(scheduler.state_dict()) for scheduler in schedulers]
    if len(saved) != len(here) or any(map(set.difference, here, saved)):
        names = ', '.join(type(scheduler).__name__ for scheduler in schedulers)
        raise UserError(
            f'cannot resume from {path!r}: the states of its {len(saved)} schedulers are not of '
            f'the param_scheduler of the config, {names or None}'
        )


def settings_of(cfg: Config) -> dict[str, Any]:
    """Return what a training's result depends on beside model and data, by keys of the config."""
    settings = {'processes': number_of_processes(cfg.get('launcher'))}
    for name in ('batch_size', 'sampler', 'batch_sampler', 'drop_last'):
        settings[f'train_dataloader.{name}'] = cfg.train_dataloader.get(name)
    for name in ('train_cfg', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr'):
        settings[name] = cfg.get(name)
    return {
        key: value if isinstance(value, str | int | float) else str(value)
        for name, setting in settings.items()
        for key, value in parts_of(name, setting)
        if value is not None and not isinstance(value, Mapping | list | tuple)
    }


def _changes(then: Any, now: Mapping[str, Any], path: str) -> list[str]:
    """Say which settings are not those that a checkpoint notes, if it does.

    Raises:
        UserError: For a type whose state cannot be that of another.
    """
    then = then if isinstance(then, Mapping) else now
    changes = []
    for key in sorted({*then, *now} - {'samples'}):
        before, after = then.get(key), now.get(key)
        if before != after:
            changes.append(f'{key} was {before}, is {after}')
            if re.fullmatch(r'optim_wrapper\.optimizer\.type|param_scheduler\..*type', key):
                raise UserError(f'cannot resume from {path!r}: {changes[-1]}')
    text = f'resuming from {path!r} with other settings, so the result differs: '
    note = ' (optimizer and schedulers keep the values of the checkpoint)'
    return [text + '; '.join(changes) + note] if changes else []


def _read(path: str) -> dict[str, Any]:
    """Read what a training has saved; without ``mmap``, which would skip the check sums."""
    if '://' in path:
        raise CheckpointError(f'checkpoint {path!r} is not a local file: download it first')
    content = read_checkpoint(path)
    held = content if isinstance(content, Mapping) else {}
    entries = ('meta', 'message_hub', 'state_dict', 'optimizer')
    if missing := [entry for entry in entries if not isinstance(held.get(entry), Mapping)]:
        raise CheckpointError(
            f'checkpoint {path!r} lacks {", ".join(missing)}; to start from its weights, use '
            '--cfg-options load_from=CHECKPOINT'
        )
    meta = content['meta']
    numbers = meta.get('epoch'), meta.get('iter'), meta.get('seed') or 0
    if not all(type(number) is int and 0 <= number < 2**32 for number in numbers):
        raise CheckpointError(f'checkpoint {path!r}: its meta does not say epoch, iter and seed')
    if not _is_hub(content['message_hub']):
        raise CheckpointError(f'checkpoint {path!r}: its message_hub is not one of mmengine')
    # Else mmengine takes anything for the state of a scheduler.
    schedulers = content.get('param_schedulers', [])
    for group in schedulers.values() if isinstance(schedulers, Mapping) else [schedulers]:
        if not isinstance(group, list) or not all(isinstance(state, Mapping) for state in group):
            raise CheckpointError(f'checkpoint {path!r}: its param_schedulers are no states')
    if 'config' in meta:
        raise CheckpointError(
            f'checkpoint {path!r}: its meta.config is a program, which mmengine would run'
        )
    return content


def _is_hub(hub: Mapping[str, Any]) -> bool:
    """Tell whether a message hub has what mmengine's hooks, and ours, take from it unseen."""
    parts = [hub.get(name) for name in ('log_scalars', 'runtime_info', 'resumed_keys')]
    info = parts[1] if isinstance(parts[1], Mapping) else {}
    parts.append(info.get('settings', {}))
    if not all(isinstance(part, Mapping) and set(map(type, part)) <= {str} for part in parts):
        return False
    kept = info.get('keep_ckpt_ids', [])
    scores = [value for name, value in info.items() if name.startswith('best_score')]
    return (
        isinstance(kept, list)
        and all(isinstance(step, int) for step in kept)
        and all(isinstance(score, int | float | Tensor) for score in scores)
    )


class ResumeHook(Hook):
    """Before a resumed training goes on, does the validation that its checkpoint lacks.

    mmengine saves a checkpoint, then validates, and saves it again only if it is the best. Whatever
    a validation changes (the best checkpoint, schedulers, early stopping) is missing in the first.
    The hook also notes in checkpoints which settings the next resume compares with its own.
    """

    priority = 'LOWEST'  # when all hooks are ready to train

    def before_train(self, runner: Runner) -> None:
        """Note the settings, and validate if the run would have done so next."""
        samples, hub = len(runner.train_dataloader.dataset), runner.message_hub
        before = hub.runtime_info.get('settings', {}).get('samples', samples)
        if before != samples:
            differs = f'resuming with {samples} samples to train on, not {before}'
            runner.logger.warning(f'{differs} as before, so the result differs')
        hub.update_info('settings', {**settings_of(runner.cfg), 'samples': samples})
        loop = runner.train_loop
        if not (runner.val_loop and isinstance(loop, EpochBasedTrainLoop | IterBasedTrainLoop)):
            return
        step = _step(runner)
        end = loop.max_iters if isinstance(loop, IterBasedTrainLoop) else loop.max_epochs
        # As the loop decides after each step.
        interval = loop.dynamic_intervals[bisect(loop.dynamic_milestones, step + 1) - 1]
        due = step >= max(loop.val_begin, 1) and (step % interval == 0 or step == end)
        known = runner.message_hub.runtime_info
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook.last_ckpt = known.get('last_ckpt')  # else the next best is not saved twice
                _forget_others(hook)
                path = os.path.abspath(runner.cfg.get('load_from') or '')
                inside = os.path.dirname(path) == os.path.abspath(hook.out_dir)
                if runner.cfg.get('resume') and inside:
                    _note(runner, path)
        if due and known.get('validated') != step:
            runner.val_loop.run()

    def before_val_epoch(self, runner: Runner) -> None:
        """Note it for a checkpoint that is saved after the validation."""
        runner.message_hub.update_info('validated', _step(runner))


def _forget_others(hook: CheckpointHook) -> None:
    """Have a hook delete only its own folder's best checkpoint when there is a better one.

    A checkpoint notes the path of the best one: that of a folder which was moved or copied, of
    another training that this one goes on from, or any file or folder, if a stranger made it.
    """

    def own(path: Any) -> str | None:
        name = os.path.basename(str(path))
        here = hook.file_backend.join_path(hook.out_dir, name)
        return here if name.startswith('best_') and hook.file_backend.isfile(here) else None

    if hasattr(hook, 'best_ckpt_path'):
        hook.best_ckpt_path = own(hook.best_ckpt_path)
    for key, path in getattr(hook, 'best_ckpt_path_dict', {}).items():
        hook.best_ckpt_path_dict[key] = own(path)


@master_only
def _note(runner: Runner, path: str) -> None:
    """Name the last checkpoint, as mmengine does when it is saved, unless it is killed there."""
    Path(runner.work_dir, 'last_checkpoint').write_text(path)


def _step(runner: Runner) -> int:
    return runner.iter if isinstance(runner.train_loop, IterBasedTrainLoop) else runner.epoch
