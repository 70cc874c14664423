from pathlib import Path

import pytest
import torch

from mmcontnet.weights import CheckpointError, convert_checkpoint, convert_state_dict
from tests.parity import author_state_dict, record


@pytest.fixture(scope='module')
def author() -> dict[str, torch.Tensor]:
    return author_state_dict(record('cont-s')['state_dict'])


def test_wrappers_and_prefixes_make_no_difference(author: dict, tmp_path: Path) -> None:
    expected = convert_state_dict(author)
    assert expected.backbone == dict(type='ConTNet', arch='s')
    wrapped = {f'module.{key}': value for key, value in author.items()}
    for content in (author, {'model': author}, {'state_dict': wrapped, 'epoch': 3}):
        torch.save(content, tmp_path / 'author.pth')
        convert_checkpoint(tmp_path / 'author.pth', tmp_path / 'ours.pth')
        written = torch.load(tmp_path / 'ours.pth', weights_only=True)
        torch.testing.assert_close(written['state_dict'], expected.state_dict)


def changed(author: dict, **tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Replace tensors by the names' parts, or take them out."""
    result = {**author, **{key.replace('__', '.'): value for key, value in tensors.items()}}
    return {key: value for key, value in result.items() if value is not None}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(fc__bias=None), 'head.fc.bias: nothing instead of'),
        (dict(ema__decay=torch.ones(1)), 'ema.decay: .* instead of nothing'),
        (dict(layer1__ConTBlock0__bn__weight=torch.ones(5)), r'norm.weight: \(5,\) instead'),
        (dict(layer1__ConTBlock7__bn__weight=torch.ones(64)), r'unknown arch: depths \(8, 1'),
    ],
)
def test_what_would_not_load_strictly_is_refused(author: dict, change: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert_state_dict(changed(author, **change))


class Harmful:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path('ran'),))


@pytest.mark.parametrize('kind', ['text', 'empty', 'cut', 'foreign', 'harmful', 'list'])
def test_bad_files_are_named_and_nothing_is_written(
    kind: str, author: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / 'source.pth'
    if kind in ('text', 'empty'):
        source.write_text('hello' if kind == 'text' else '')
    else:
        torch.save(
            {
                'cut': author,
                'foreign': {'conv1.weight': torch.ones(1)},
                'harmful': {'model': Harmful()},
                'list': [1, 2],
            }[kind],
            source,
        )
    if kind == 'cut':
        source.write_bytes(source.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match='unknown checkpoint' if kind == 'foreign' else 'pth'):
        convert_checkpoint(source, tmp_path / 'out' / 'ours.pth')
    assert not (tmp_path / 'ran').exists()
    assert not list(tmp_path.rglob('ours*'))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'no.pth' not found"):
        convert_checkpoint('no.pth', tmp_path / 'ours.pth')
