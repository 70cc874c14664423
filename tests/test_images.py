"""Image files that no network should see: one line each, in every tool that opens images."""

import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmcontnet.errors import UserError
from mmcontnet.images import read_image

from .analysis.test_prediction import save_checkpoint
from .inprocess import run_tool
from .integration.configs import write_segmenter
from .integration.data import make_label_maps

PIXELS = np.random.RandomState(0).randint(0, 256, (60, 80, 3), np.uint8)
FLOATS = Image.fromarray(PIXELS[..., 0] / np.float32(2))
NAMED = 'it is no whole image that its loader knows'


def save(image_format: str, length: int | None = None) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        Image.fromarray(PIXELS).save(path, image_format)
        path.write_bytes(path.read_bytes()[:length])

    return write


def bomb(path: Path) -> None:
    """Write 20,000 x 20,000 pixels in a few kilobytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        )

    header = struct.pack('>IIBBBBB', 20000, 20000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2501 * 20000))
    chunks = (b'IHDR', header), (b'IDAT', rows), (b'IEND', b'')
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*c) for c in chunks))


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    'cut.jpg': (save('JPEG', 2000), NAMED),
    'truncated.png': (save('PNG', 2000), NAMED),
    'gif.png': (save('GIF'), NAMED),
    'eps.png': (save('EPS'), NAMED),
    'float.tiff': (lambda path: FLOATS.save(path, 'TIFF'), NAMED),
    'text.png': (lambda path: path.write_text('no image'), NAMED),
    'empty.png': (Path.touch, NAMED),
    'folder.png': (Path.mkdir, 'Is a directory'),
    'bomb.png': (bomb, r'Image size \(400000000 pixels\) exceeds limit'),
    'pipe.png': (os.mkfifo, 'it is no regular file'),
    'link.png': (lambda path: path.symlink_to('nothing'), 'No such file or directory'),
}


@pytest.mark.parametrize('name', ODD)
def test_what_is_no_image_is_one_line(name: str, tmp_path: Path) -> None:
    write, message = ODD[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=f"^cannot read image '.*{name}': {message}"):
        read_image(tmp_path / name)


def test_images_are_what_training_sees_upright_and_in_eight_bits(tmp_path: Path) -> None:
    image, exif = Image.fromarray(PIXELS), Image.Exif()
    exif[0x112] = 6  # turned by 90 degrees
    image.save(tmp_path / 'turned.png', exif=exif)
    assert np.array_equal(read_image(tmp_path / 'turned.png'), np.rot90(PIXELS, -1)[..., ::-1])
    deep = PIXELS[..., 0].astype(np.uint16) * 256
    Image.fromarray(deep).save(tmp_path / 'deep.png')
    assert np.array_equal(read_image(tmp_path / 'deep.png'), np.stack([PIXELS[..., 0]] * 3, -1))


@pytest.mark.filterwarnings('error')
def test_broken_exif_data_are_passed_over(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / 'good.jpg')
    content = (tmp_path / 'good.jpg').read_bytes()
    exif = b'Exif\0\0II*\0' + b'\xff' * 90
    broken = content[:2] + b'\xff\xe1' + struct.pack('>H', 2 + len(exif)) + exif + content[2:]
    (tmp_path / 'broken.jpg').write_bytes(broken)
    assert np.array_equal(read_image(tmp_path / 'broken.jpg'), read_image(tmp_path / 'good.jpg'))


def test_every_tool_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    make_label_maps(tmp_path / 'data/labels')
    config = write_segmenter(tmp_path)
    checkpoint = save_checkpoint(config, 'ground', 'thing')
    os.mkfifo('pipe.png')
    for tool in (
        ('demo.py', 'pipe.png', config, checkpoint),
        ('receptive_field.py', config, '--images', 'pipe.png'),
    ):
        line = run_tool(monkeypatch, *tool)
        assert line == f"{tool[0]}: error: cannot read image 'pipe.png': it is no regular file"
    names = [name.partition('.')[0] for name in ODD]
    for name, (write, _) in zip(names, ODD.values(), strict=True):
        write(tmp_path / f'data/labels/img/{name}.jpg')
    (tmp_path / 'data/labels/names.txt').write_text('\n'.join(names))
    options = [f'{part}_dataloader.dataset.ann_file=names.txt' for part in ('train', 'val')]
    for tool in (
        ('check_dataset.py', config, '--split', 'train', 'val'),
        ('train.py', config, '--check-data'),
    ):
        capsys.readouterr()
        line = run_tool(monkeypatch, *tool, '--cfg-options', *options)
        assert str(line).endswith('listed above')
        said = capsys.readouterr().err
        for name in names:  # in the data sets to train and to validate with
            lines = re.findall(rf'^    .*img/{name}\.jpg.*', said, re.MULTILINE)
            assert len(lines) == 2 and len(set(lines)) == 1
