"""Checkpoints are intact, and the old one goes when the new one is there."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen
from textwrap import dedent

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from mmcontnet.engine import find_resume_point, owner_of, runner_of
from mmcontnet.engine.writing import ATOMIC
from mmcontnet.errors import UserError

from .runs import Scripted, tiny_config, train

BACKEND = dict(backend=ATOMIC)


def fail(file: int) -> None:
    raise OSError(28, 'No space left on device')


def test_a_file_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'new/file.pth'
    backend = get_file_backend(str(path), backend_args=BACKEND)
    backend.put(b'before', path)
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(UserError, match=r"cannot write '.*file\.pth': No space left on device"):
        backend.put(b'after', path)
    assert path.read_bytes() == b'before'
    assert os.listdir(path.parent) == ['file.pth']


def test_a_removed_file_stays_until_the_next_in_its_folder_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c, other = (tmp_path / name for name in ('a', 'b', 'c', 'other/d'))
    for path in (a, b, other):
        get_file_backend(path, backend_args=BACKEND).put(b'', path)
    backend = get_file_backend(tmp_path, backend_args=BACKEND)
    backend.remove(a)
    backend.put(b'', other)
    assert a.exists()
    with monkeypatch.context() as full, pytest.raises(UserError):
        full.setattr(os, 'fsync', fail)
        backend.put(b'', c)
    backend.put(b'', c)
    assert a.exists()  # the run that removed it has ended
    backend.remove(a)
    backend.remove(b)
    get_file_backend(tmp_path, backend_args=BACKEND).put(b'again', b)
    assert b.read_bytes() == b'again' and not a.exists()


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob('*.pth'))


def test_of_two_checkpoints_one_is_always_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = {'max_keep_ckpts': 1, 'save_best': 'score', 'rule': 'greater'}
    cfg = tiny_config(tmp_path, **{'default_hooks.checkpoint': hook})
    monkeypatch.setattr(Scripted, 'scores', [1.0, 2.0])
    before: list[list[str]] = []
    fsync: Callable[[int], None] = os.fsync

    def fills_up(file: int) -> None:
        before.append(checkpoints(tmp_path))
        if (tmp_path / 'epoch_3.pth.partial').exists():
            fail(file)
        fsync(file)

    monkeypatch.setattr(os, 'fsync', fills_up)
    with pytest.raises(UserError, match=r'epoch_3\.pth.*No space left'):
        train(cfg)
    # Saved, validated, saved again with the score.
    one, best_one = ['epoch_1.pth'], ['best_score_epoch_1.pth', 'epoch_1.pth']
    two, best_two = ['best_score_epoch_1.pth', 'epoch_2.pth'], ['best_score_epoch_2.pth']
    assert before == [[], one, best_one, best_one, two, [*best_two, *two[1:]], before[-1]]
    assert checkpoints(tmp_path) == before[-1] == ['best_score_epoch_2.pth', 'epoch_2.pth']


@HOOKS.register_module()
class Theirs(CheckpointHook):
    pass


def test_hooks_of_others_write_so_too_unless_they_say_where(tmp_path: Path) -> None:
    def backend_of(**options: object) -> dict | None:
        cfg = tiny_config(tmp_path, **{'default_hooks.checkpoint': dict(type='Theirs', **options)})
        with runner_of(cfg) as runner:
            return next(h.backend_args for h in runner.hooks if isinstance(h, Theirs))

    assert backend_of() == BACKEND
    assert backend_of(backend_args=dict(backend='local')) == dict(backend='local')
    assert backend_of(out_dir='s3://bucket') is None


def test_what_a_machine_lacks_is_one_line_and_what_else_fails_is_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='^cannot write the logs: No space left on device$'):
        with runner_of(tiny_config(tmp_path)):
            fail(0)
    out_of_memory = torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
    with pytest.raises(UserError, match='^the GPU has too little memory.*with_cp.* 2.00 GiB'):
        with runner_of(tiny_config(tmp_path)):
            raise out_of_memory
    with pytest.raises(FileNotFoundError), runner_of(tiny_config(tmp_path)):
        open('none')


def test_a_work_dir_has_one_owner_at_a_time(tmp_path: Path) -> None:
    script = """
        import fcntl, sys
        file = open('.owner', 'w')
        fcntl.lockf(file, fcntl.LOCK_EX)
        file.write('process 7')
        file.flush()
        print('held', flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, '-c', dedent(script)]
    with Popen(command, cwd=tmp_path, stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == 'held\n'
        with pytest.raises(UserError, match="' is in use by process 7$"), owner_of(str(tmp_path)):
            pass
        other.kill()
    (tmp_path / 'epoch_1.pth.partial').touch()  # of a killed training
    with owner_of(str(tmp_path)):
        assert f'process {os.getpid()} on ' in (tmp_path / '.owner').read_text()
        assert not (tmp_path / 'epoch_1.pth.partial').exists()
        (tmp_path / 'epoch_1.pth').touch()


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('file', "work dir '.*/file' is no folder"),
        ('file/inner', "cannot write into '.*/file/inner': Not a directory"),
        ('link', "work dir '.*/link' is no folder, or a link to nothing"),
        ('x' * 300, "cannot write into '.*x': File name too long"),
        ('full', "cannot write into '.*/full': "),
        ('noted', "'.*/noted/last_checkpoint' is no file, or a link to nothing: delete it"),
    ],
)
def test_a_work_dir_in_an_odd_state_is_one_line(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    (tmp_path / 'epoch_1.pth').touch()  # of another training, that may not be taken
    (tmp_path / 'link').symlink_to('nothing')
    for file, target in (('full/.owner', '/dev/full'), ('noted/last_checkpoint', 'nothing')):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).symlink_to(target)
    with pytest.raises(UserError, match=message), owner_of(str(tmp_path / name)):
        pass
    cfg = Config(dict(work_dir=str(tmp_path / name), model={}))
    if name in ('file', 'link'):
        with pytest.raises(UserError, match=f"work dir '.*/{name}' is no folder"):
            find_resume_point(cfg)
    elif len(name) == 300:
        with pytest.raises(UserError, match="cannot read '.*': File name too long"):
            find_resume_point(cfg)
    else:
        assert find_resume_point(cfg) is None


def test_without_a_note_the_run_that_wrote_last_goes_on_whatever_the_clock_said(
    tmp_path: Path,
) -> None:
    train(tiny_config(tmp_path, randomness=dict(seed=1), **{'train_cfg.max_epochs': 5}))
    train(tiny_config(tmp_path))  # another, of three epochs
    for epoch, clock in enumerate((7, 9, 8, 4, 5), 1):
        os.utime(tmp_path / f'epoch_{epoch}.pth', (clock, clock))
    (tmp_path / 'last_checkpoint').unlink()
    cfg = Config(dict(work_dir=str(tmp_path), model={}))
    found = []
    for _ in range(5):
        found.append(int(find_resume_point(cfg).checkpoint[-5]))
        (tmp_path / f'epoch_{found[-1]}.pth').write_bytes(b'')
        os.utime(tmp_path / f'epoch_{found[-1]}.pth', (0, 0))
    assert found == [3, 2, 1, 5, 4]
    # What is not there is said.
    (tmp_path / 'epoch_9.pth').symlink_to('nothing')
    with pytest.raises(UserError, match="epoch_9.pth' not found"):
        find_resume_point(cfg)


def test_a_work_dir_that_is_not_used_is_not_left(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), owner_of(str(tmp_path / 'runs/a')):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
    (tmp_path / 'a').mkdir()
    with owner_of(str(tmp_path / 'a')):
        pass
    assert os.listdir(tmp_path) == ['a'] and not any((tmp_path / 'a').iterdir())
