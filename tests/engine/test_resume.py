"""What is left of an interrupted run, and how the next finds it."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmcontnet.engine import errors_in_a_line, prepare_resume
from mmcontnet.errors import UserError


def write(folder: Path, *names: str, noted: str | None = None, **meta: Any) -> None:
    """Write checkpoints, and the note that mmengine leaves of the last."""
    folder.mkdir(exist_ok=True)
    for name in names:
        content = dict(
            meta=dict(epoch=1, iter=5, seed=7, **meta),
            message_hub={},
            state_dict={'w': torch.ones(999)},
            optimizer={},
        )
        torch.save(content, folder / name)
    noted = names[-1] if noted is None else noted
    (folder / 'last_checkpoint').write_text(str(folder / noted))


def found(folder: Path) -> str | None:
    cfg = Config(dict(work_dir=str(folder)))
    assert prepare_resume(cfg) is (cfg.load_from is not None)
    return cfg.load_from and os.path.relpath(cfg.load_from, folder)


def test_the_last_checkpoint_is_found(tmp_path: Path) -> None:
    assert found(tmp_path / 'none') is None
    assert found(tmp_path) is None
    write(tmp_path, 'epoch_9.pth', 'epoch_10.pth')
    assert found(tmp_path) == 'epoch_10.pth'


def test_later_ones_are_of_an_earlier_run_unless_this_one_did_not_come_to_note_them(
    tmp_path: Path,
) -> None:
    write(tmp_path, 'iter_300.pth', 'iter_100.pth', noted='iter_100.pth')
    os.utime(tmp_path / 'iter_300.pth', (1, 1))
    assert found(tmp_path) == 'iter_100.pth'
    write(tmp_path, 'iter_200.pth', noted='iter_100.pth')
    later = os.stat(tmp_path / 'last_checkpoint').st_mtime + 1
    os.utime(tmp_path / 'iter_200.pth', (later, later))
    assert found(tmp_path) == 'iter_200.pth'


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(9).numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('damage', [truncate, flip, lambda path: path.write_bytes(b'')])
def test_a_broken_one_is_named_and_the_one_before_is_taken(
    damage: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path, 'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth')
    damage(tmp_path / 'epoch_3.pth')
    assert found(tmp_path) == 'epoch_2.pth'
    warning, decision = capsys.readouterr().err.splitlines()
    assert 'epoch_3.pth' in warning and 'epoch_2.pth' in decision
    damage(tmp_path / 'epoch_1.pth')
    damage(tmp_path / 'epoch_2.pth')
    with pytest.raises(UserError, match='no whole checkpoint in .*epoch_3.*epoch_2.*epoch_1'):
        found(tmp_path)
    with pytest.raises(UserError, match=r'epoch_2\.pth'):
        prepare_resume(Config(dict(work_dir='.', load_from=str(tmp_path / 'epoch_2.pth'))))


@pytest.mark.parametrize('note', ['', '/some', 'work_dirs/run/epo'])
def test_a_truncated_note_is_named_and_the_last_one_is_taken(
    note: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path, 'epoch_9.pth', 'epoch_10.pth')
    (tmp_path / 'last_checkpoint').write_text(note)
    assert found(tmp_path) == 'epoch_10.pth'
    assert f"last_checkpoint' names {note!r}" in capsys.readouterr().err


def test_a_note_without_any_file_is_no_reason_to_start_anew(tmp_path: Path) -> None:
    write(tmp_path, 'epoch_1.pth')
    (tmp_path / 'epoch_1.pth').unlink()
    with pytest.raises(UserError, match=r"names '.*epoch_1\.pth', which is no file"):
        found(tmp_path)


def test_a_work_dir_that_was_moved_is_gone_on_with(tmp_path: Path) -> None:
    write(tmp_path / 'here', 'iter_1.pth', 'iter_2.pth', noted='iter_1.pth')
    os.utime(tmp_path / 'here/iter_2.pth', (1, 1))
    (tmp_path / 'here').rename(tmp_path / 'there')
    assert found(tmp_path / 'there') == 'iter_1.pth'


def test_names_of_the_configs_and_folders_elsewhere_are_found(tmp_path: Path) -> None:
    write(tmp_path / 'store', 'step-5.pth')
    (tmp_path / 'work').mkdir()
    (tmp_path / 'store/last_checkpoint').rename(tmp_path / 'work/last_checkpoint')
    assert found(tmp_path / 'work') == '../store/step-5.pth'


def test_weights_alone_cannot_be_resumed_from(tmp_path: Path) -> None:
    torch.save(dict(state_dict={}, meta={}, message_hub={}), tmp_path / 'best.pth')
    with pytest.raises(UserError, match=r'which holds no optimizer as .*load_from=CHECKPOINT'):
        prepare_resume(Config(dict(work_dir='.', load_from=str(tmp_path / 'best.pth'))))


def test_what_is_no_local_file_is_not_resumed_from() -> None:
    with pytest.raises(UserError, match=r"'https://a/b\.pth': give a local file"):
        prepare_resume(Config(dict(work_dir='.', load_from='https://a/b.pth')))


def test_a_data_sets_metainfo_may_be_nested(tmp_path: Path) -> None:
    write(tmp_path, 'epoch_1.pth', metainfo=Config(dict(info=dict(source='mine'))).info)
    assert found(tmp_path) == 'epoch_1.pth'


def test_a_copied_work_dir_goes_on_with_its_own(tmp_path: Path) -> None:
    write(tmp_path / 'a', 'epoch_5.pth')
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    write(tmp_path / 'a', 'epoch_12.pth')
    assert found(tmp_path / 'b') == 'epoch_5.pth'


def test_without_a_note_the_newest_is_taken(tmp_path: Path) -> None:
    write(tmp_path, 'epoch_12.pth', 'epoch_3.pth')
    os.utime(tmp_path / 'epoch_12.pth', (1, 1))
    (tmp_path / 'last_checkpoint').write_bytes(b'\xff\xfe')
    assert found(tmp_path) == 'epoch_3.pth'


@pytest.mark.parametrize(('given', 'seed'), [(None, 7), ({}, 7), (dict(seed=0), 0)])
def test_the_seed_of_the_run_is_taken_unless_one_is_given(
    given: dict | None, seed: int, tmp_path: Path
) -> None:
    write(tmp_path, 'epoch_1.pth')
    cfg = Config(dict(work_dir=str(tmp_path)) | ({} if given is None else dict(randomness=given)))
    prepare_resume(cfg)
    assert cfg.randomness.seed == seed


def fail(file: int) -> None:
    raise OSError(28, 'No space left on device')


def test_a_file_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'new/file.pth'
    backend = get_file_backend(str(path))
    backend.put(b'before', path)
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(UserError, match=r"cannot write '.*file\.pth': No space left on device"):
        backend.put(b'after', path)
    assert path.read_bytes() == b'before'
    assert os.listdir(path.parent) == ['file.pth']


def test_what_cannot_be_written_ends_a_run_in_a_line() -> None:
    with pytest.raises(SystemExit, match=r'^train\.py: error: cannot write logs: No space left'):
        with errors_in_a_line('train.py'):
            fail(0)
    with pytest.raises(SystemExit, match=r'^test\.py: error: cannot write'):
        with errors_in_a_line('test.py'):
            raise UserError('cannot write')
    with pytest.raises(FileNotFoundError), errors_in_a_line('train.py'):
        open('none')


class Numbers(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.ones(3)


class Net(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 1)

    def train_step(self, data: list, optim_wrapper: Any) -> dict:
        loss = self(torch.stack(data)).sum()
        optim_wrapper.update_params(loss)
        return dict(loss=loss)

    def val_step(self, data: list) -> list:
        return data


def build(work_dir: Path, epochs: int) -> Runner:
    loader = dict(batch_size=1, sampler=dict(type='DefaultSampler'), dataset=Numbers())
    checkpoint = dict(
        type='CheckpointHook', interval=1, max_keep_ckpts=1, save_best='score', rule='greater'
    )
    return Runner(
        Net(),
        str(work_dir),
        loader,
        loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        val_cfg=dict(),
        val_evaluator=[Score()],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=checkpoint),
        experiment_name=f'{work_dir.name}{epochs}',
    )


class Score:
    """An evaluator whose score rises."""

    score = 0
    dataset_meta = None

    def process(self, *args: Any, **kwargs: Any) -> None:
        pass

    def evaluate(self, size: int) -> dict:
        Score.score += 1
        return dict(score=Score.score)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob('*.pth'))


def test_a_checkpoint_is_removed_when_the_next_is_there_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / 'whole', 3).train()
    assert checkpoints(tmp_path / 'whole') == ['best_score_epoch_3.pth', 'epoch_3.pth']
    full = tmp_path / 'full'
    before = []

    def fills_up(file: int) -> None:
        before.append(checkpoints(full))
        if os.path.exists(full / 'epoch_2.pth.partial'):
            fail(file)

    monkeypatch.setattr(os, 'fsync', fills_up)
    with pytest.raises(UserError, match=r'epoch_2\.pth.*No space left'):
        build(full, 3).train()
    assert checkpoints(full) == before[-1] == ['best_score_epoch_1.pth', 'epoch_1.pth']
