"""Which checkpoint a run is resumed from."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmcontnet.engine import ResumePoint, find_resume_point, runner_of
from mmcontnet.errors import UserError

from .runs import HUB, Scripted, tiny_config, train


def write(folder: Path, *names: str, noted: str | None = None, **meta: Any) -> None:
    """Write checkpoints, and the note that mmengine leaves of the last."""
    folder.mkdir(exist_ok=True)
    for name in names:
        content = dict(
            meta=dict(epoch=1, iter=5, seed=7, **meta),
            message_hub=HUB,
            state_dict={'w': torch.ones(999)},
            optimizer={},
        )
        torch.save(content, folder / name)
    (folder / 'last_checkpoint').write_text(str(folder / (noted or names[-1])))


def find(folder: Path, checkpoint: str | None = None, **config: Any) -> ResumePoint | None:
    return find_resume_point(Config(dict(work_dir=str(folder), model={}, **config)), checkpoint)


def found(folder: Path) -> str | None:
    resume = find(folder)
    return resume and os.path.relpath(resume.checkpoint, folder)


def test_the_noted_checkpoint_is_taken(tmp_path: Path) -> None:
    assert found(tmp_path / 'none') is None
    assert found(tmp_path) is None
    write(tmp_path, 'epoch_9.pth', 'epoch_10.pth')
    assert found(tmp_path) == 'epoch_10.pth'
    # Later ones are of an earlier run.
    write(tmp_path, 'iter_300.pth', 'iter_100.pth')
    assert found(tmp_path) == 'iter_100.pth'
    # By the config's filename_tmpl.
    write(tmp_path, 'step-5.pth')
    assert found(tmp_path) == 'step-5.pth'


@pytest.mark.parametrize(
    'note', [None, b'', b'/some', b'work_dirs/run/epo', b'\xff\xfe', b'x' * 999]
)
def test_without_an_intact_note_the_newest_is_taken(note: bytes | None, tmp_path: Path) -> None:
    # Of an earlier run, and of this one, all at once as on a coarse file system.
    for time, names in enumerate(
        (['epoch_20.pth', 'iter_500.pth'], ['epoch_9.pth', 'epoch_10.pth'])
    ):
        write(tmp_path, *names)
        for name in names:
            os.utime(tmp_path / name, (time, time))
    (tmp_path / 'last_checkpoint').unlink()
    if note is not None:
        (tmp_path / 'last_checkpoint').write_bytes(note)
    assert found(tmp_path) == 'epoch_10.pth'
    flip(tmp_path / 'epoch_10.pth')
    os.utime(tmp_path / 'epoch_10.pth', (1, 1))
    assert found(tmp_path) == 'epoch_9.pth'


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(9).numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('damage', [truncate, flip, lambda path: path.write_bytes(b'')])
def test_instead_of_a_broken_one_the_one_before_is_taken(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    write(tmp_path, 'epoch_4.pth', 'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth')
    damage(tmp_path / 'epoch_3.pth')
    resume = find(tmp_path)
    assert resume is not None and resume.checkpoint.endswith('epoch_2.pth')
    fault, decision = resume.warnings
    assert 'epoch_3.pth' in fault and 'epoch_2.pth' in decision
    damage(tmp_path / 'epoch_1.pth')
    damage(tmp_path / 'epoch_2.pth')
    with pytest.raises(UserError, match='^cannot resume: .*epoch_3.*epoch_2.*epoch_1'):
        find(tmp_path)
    with pytest.raises(UserError, match=r'epoch_2\.pth'):
        find(tmp_path, str(tmp_path / 'epoch_2.pth'))


def test_a_note_without_any_file_is_no_reason_to_start_anew(tmp_path: Path) -> None:
    write(tmp_path, 'epoch_1.pth')
    (tmp_path / 'epoch_1.pth').unlink()
    with pytest.raises(UserError, match=r"names '.*epoch_1\.pth', which is not a file"):
        find(tmp_path)
    (tmp_path / 'last_checkpoint').write_text('')
    with pytest.raises(UserError, match=r"^cannot resume: '.*/last_checkpoint' is empty$"):
        find(tmp_path)


def test_work_dirs_may_be_moved_copied_and_apart_from_their_checkpoints(tmp_path: Path) -> None:
    write(tmp_path / 'a', 'epoch_5.pth')
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    write(tmp_path / 'a', 'epoch_12.pth')
    assert found(tmp_path / 'b') == 'epoch_5.pth'
    (tmp_path / 'a').rename(tmp_path / 'c')
    assert found(tmp_path / 'c') == 'epoch_12.pth'
    (tmp_path / 'work').mkdir()
    shutil.copy(tmp_path / 'b/last_checkpoint', tmp_path / 'work')
    write(tmp_path / 'a', 'epoch_5.pth')
    assert found(tmp_path / 'work') == '../a/epoch_5.pth'


def test_what_a_training_has_not_saved_cannot_be_resumed_from(tmp_path: Path) -> None:
    torch.save(dict(state_dict={}, meta={}, message_hub={}), tmp_path / 'best.pth')
    with pytest.raises(UserError, match=r'lacks optimizer; .*load_from=CHECKPOINT'):
        find(tmp_path, str(tmp_path / 'best.pth'))
    with pytest.raises(UserError, match=r"'https://a/b\.pth' is not a local file"):
        find(tmp_path, 'https://a/b.pth')
    write(tmp_path, 'epoch_1.pth', config='print()')
    with pytest.raises(UserError, match=r'meta\.config is a program'):
        find(tmp_path)
    content = torch.load(tmp_path / 'epoch_1.pth')
    del content['meta']['config']
    for schedulers in (1, [3], {'optimizer': 3}):
        torch.save({**content, 'param_schedulers': schedulers}, tmp_path / 'epoch_1.pth')
        with pytest.raises(UserError, match='its param_schedulers are no states'):
            find(tmp_path)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(meta=dict(epoch=-1, iter=5)), 'its meta does not say epoch, iter and seed'),
        (dict(meta=dict(epoch=1, iter=2**70)), 'its meta does not say epoch, iter and seed'),
        (dict(meta=dict(epoch=1, iter=5, seed='a')), 'its meta does not say epoch, iter and seed'),
        (dict(message_hub={}), 'its message_hub is not one of mmengine'),
        (dict(message_hub={**HUB, 'log_scalars': []}), 'its message_hub is not one'),
        *(
            (dict(message_hub={**HUB, 'runtime_info': info}), 'its message_hub is not one')
            for info in (
                {1: 2},
                dict(best_score='a'),
                dict(keep_ckpt_ids='a'),
                dict(keep_ckpt_ids=['/etc/x']),
                dict(settings='a'),
                dict(settings={1: 2}),
            )
        ),
    ],
)
def test_notes_that_would_fail_in_training_are_found_before(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path, 'epoch_1.pth')
    content = torch.load(tmp_path / 'epoch_1.pth')
    torch.save({**content, **changes}, tmp_path / 'bad.pth')
    with pytest.raises(UserError, match=message):
        find(tmp_path, str(tmp_path / 'bad.pth'))


def test_a_resumed_run_keeps_its_seed_whatever_the_config_says(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path)
    whole = train(cfg)
    path = str(tmp_path / 'epoch_1.pth')
    for given in (None, {}, dict(seed=1)):
        cfg.randomness = given
        resume = find_resume_point(cfg, path)
        assert resume is not None
        warning = f'resuming with seed 0 of {path!r}, not 1 of the config'
        assert resume.warnings == ([warning] if given else [])
        assert resume.randomness['seed'] == 0
    assert train(cfg, resume) == whole[4:]


STEP, COSINE = dict(type='StepLR', step_size=1), dict(type='CosineAnnealingLR', T_max=3)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'optim_wrapper.optimizer.type': 'Adam'}, r'optimizer\.type was SGD, is Adam$'),
        (
            {'optim_wrapper.paramwise_cfg.custom_keys.other.lr_mult': 2},
            'its optimizer is not the optim_wrapper of the config: .*different number of param',
        ),
        ({'param_scheduler': [COSINE]}, r'param_scheduler\.0\.type was StepLR, is CosineAnneal'),
        ({'param_scheduler': [STEP, COSINE]}, r'param_scheduler\.1\.type was None, is Cosine'),
        ({'param_scheduler': None}, r'param_scheduler\.0\.type was StepLR, is None$'),
    ],
)
def test_other_optimizers_and_schedules_cannot_go_on(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    cfg = tiny_config(tmp_path, param_scheduler=[STEP], **{'train_cfg.max_epochs': 1})
    train(cfg)
    changed = tiny_config(tmp_path, **{'param_scheduler': [STEP], **changes})
    with pytest.raises(UserError, match=f"^cannot resume from '.*epoch_1.pth': .*{message}"):
        find_resume_point(changed)
    # Nor where the checkpoint does not note the settings.
    content = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    del content['message_hub']['runtime_info']['settings']
    torch.save(content, tmp_path / 'epoch_1.pth')
    with pytest.raises(UserError, match="^cannot resume from '.*epoch_1.pth': .*of the config"):
        find_resume_point(changed)


def test_other_settings_are_told_with_both_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    train(tiny_config(tmp_path, **{'train_cfg.max_epochs': 1}))
    loader = {'batch_size': 4, 'dataset.indices': 6, 'num_workers': 0}
    changes = {f'train_dataloader.{name}': value for name, value in loader.items()}
    cfg = tiny_config(tmp_path, launcher='pytorch', **{'optim_wrapper.optimizer.lr': 1}, **changes)
    monkeypatch.setenv('WORLD_SIZE', '2')
    (warning,) = find_resume_point(cfg).warnings  # type: ignore[union-attr]
    assert re.fullmatch(
        r"resuming from '.*epoch_1\.pth' with other settings, so the result differs: "
        r'optim_wrapper\.optimizer\.lr was 0\.1, is 1; processes was 1, is 2; '
        r'train_cfg\.max_epochs was 1, is 3; train_dataloader\.batch_size was 2, is 4 \(.*\)',
        warning,
    )
    cfg.launcher, cfg.log_level = 'none', 'WARNING'
    train(cfg, find_resume_point(cfg))
    assert 'resuming with 6 samples to train on, not 8 as before' in capsys.readouterr().out


def test_the_config_stays_as_it_is(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path / 'new', load_from='elsewhere')
    before = cfg.pretty_text
    write(tmp_path, 'epoch_1.pth')
    with runner_of(cfg, find(tmp_path)) as runner:
        assert (runner.cfg.resume, runner.seed) == (True, 7)
        assert runner.cfg.load_from == str(tmp_path / 'epoch_1.pth')
    assert cfg.pretty_text == before


@pytest.mark.parametrize(('by_epoch', 'killed'), [(True, 1), (False, 2), (True, 3)])
def test_a_validation_that_was_not_finished_is_done_first(
    by_epoch: bool, killed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> list[str]:
        return sorted(path.name for path in tmp_path.glob('*.pth'))

    hook = dict(max_keep_ckpts=1, save_best='score', rule='greater')
    cfg = tiny_config(tmp_path, by_epoch, **{'default_hooks.checkpoint': hook})
    scores = [1.0, 3.0, 2.0]
    monkeypatch.setattr(Scripted, 'scores', [*scores[: killed - 1], ZeroDivisionError()])
    with pytest.raises(ZeroDivisionError):
        train(cfg)
    monkeypatch.setattr(Scripted, 'scores', scores[killed - 1 :])
    resume = find_resume_point(cfg)
    assert len(train(cfg, resume)) == 12 - 4 * killed
    step = 'epoch_{}.pth' if by_epoch else 'iter_{}.pth'
    last, best = (3, 2) if by_epoch else (12, 8)
    assert files() == [f'best_score_{step}'.format(best), step.format(last)]
    # Of a training that has ended, the last validation only if its checkpoint lacks it.
    monkeypatch.setattr(Scripted, 'scores', [9.0])
    train(cfg, find_resume_point(cfg))
    assert files()[0] == f'best_score_{step}'.format(last)
    monkeypatch.setattr(Scripted, 'scores', [ZeroDivisionError()])
    train(cfg, find_resume_point(cfg))


@pytest.mark.parametrize('killed', [1, 2, 3, 4])
def test_validations_between_checkpoints_leave_the_same_files(
    killed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = dict(interval=2, save_best='score', rule='greater')
    changes = {'default_hooks.checkpoint': hook, 'train_cfg.max_epochs': 5}
    scores = [1.0, 2.0, 3.0, 1.0, 4.0]
    whole, cfg = (tiny_config(tmp_path / name, **changes) for name in ('whole', 'stopped'))
    monkeypatch.setattr(Scripted, 'scores', list(scores))
    train(whole)
    monkeypatch.setattr(Scripted, 'scores', [*scores[: killed - 1], ZeroDivisionError()])
    with pytest.raises(ZeroDivisionError):
        train(cfg)
    resume = find_resume_point(cfg)
    done = int(resume.checkpoint[-5]) if resume else 0
    # A checkpoint that is saved twice has its validation.
    again = killed - 1 if done == killed else done
    monkeypatch.setattr(Scripted, 'scores', scores[again:])
    train(cfg, resume)
    files = [
        sorted(p.name for p in (tmp_path / name).glob('*.pth')) for name in ('whole', 'stopped')
    ]
    assert files[0] == files[1]
    assert files[0][0] == 'best_score_epoch_5.pth' and 'epoch_3.pth' in files[0]


@pytest.mark.parametrize('metrics', ['score', ['score', 'other']])
def test_only_the_own_folders_best_checkpoint_is_replaced(
    metrics: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = dict(max_keep_ckpts=1, save_best=metrics, rule='greater')
    changes = {'default_hooks.checkpoint': hook}
    monkeypatch.setattr(Scripted, 'scores', [1.0])
    train(tiny_config(tmp_path / 'a', **changes, **{'train_cfg.max_epochs': 1}))
    before = sorted(os.listdir(tmp_path / 'a'))
    (tmp_path / 'folder').mkdir()
    foreign = torch.load(tmp_path / 'a/epoch_1.pth', weights_only=False)
    for name in [name for name in foreign['message_hub']['runtime_info'] if 'best_ckpt' in name]:
        foreign['message_hub']['runtime_info'][name] = str(tmp_path / 'folder')
    torch.save(foreign, tmp_path / 'foreign.pth')
    shutil.copytree(tmp_path / 'a', tmp_path / 'copy')
    for work_dir, path in (('copy', None), ('b', 'a/epoch_1.pth'), ('c', 'foreign.pth')):
        monkeypatch.setattr(Scripted, 'scores', [2.0, 3.0])
        cfg = tiny_config(tmp_path / work_dir, **changes)
        train(cfg, find_resume_point(cfg, path and str(tmp_path / path)))
        left = [path.name for path in (tmp_path / work_dir).glob('best_*')]
        assert left and all(name.endswith('epoch_3.pth') for name in left)
    assert sorted(os.listdir(tmp_path / 'a')) == before
    assert (tmp_path / 'folder').is_dir()
