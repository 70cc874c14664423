"""What is wrong with a command line of the tools is said in one line, and no file is left."""

import resource
import shutil
from pathlib import Path

import pytest

from mmcontnet.analysis.report import write_json
from mmcontnet.errors import UserError
from mmcontnet.output import check_out

from ..inprocess import run_tool
from ..integration.cli import ROOT
from ..integration.configs import write_segmenter

RECEPTIVE_FIELD = 'receptive_field.py fcn.py --images image.png'
LENET = 'export_onnx.py mmpretrain::lenet/lenet5_mnist.py --shape 9 9'  # it takes 32 x 32
LONG = 300 * 'x'  # no file can be named so

MISTAKES = [
    ('benchmark.py a.py --rounds 4', '--rounds must be at least 5'),
    ('benchmark.py a.py --shape 0 3', 'argument --shape: must be at least 1, got 0'),
    ('receptive_field.py fcn.py --out data.png', "--out 'data.png' is not a file"),
    ('benchmark.py a.py --json no/such/a.json', "no folder 'no/such' for --json"),
    ('benchmark.py a.py', "config 'a.py' not found"),
    ('check_dataset.py a.py --json no/such/a.json', "no folder 'no/such' for --json"),
    ('check_dataset.py fcn.py --workers -1', '--workers takes 0 or more, got -1'),
    ('complexity.py', 'one of the arguments config --all is required'),
    ('complexity.py a.py --all', 'argument --all: not allowed with argument config'),
    ('complexity.py --all --shape 3 3', '--shape goes with a CONFIG'),
    ('complexity.py a.py --shape 0 3', 'argument --shape: must be at least 1, got 0'),
    ('complexity.py a.py --json no/such/a.json', "no folder 'no/such' for --json"),
    ('complexity.py a.py', "config 'a.py' not found"),
    ('demo.py none.png fcn.py fcn.pth', "image 'none.png' not found"),
    ('demo.py image.png none.py fcn.pth', "config 'none.py' not found"),
    ('demo.py image.png fcn.py none.pth', "checkpoint 'none.pth' not found"),
    ('demo.py image.png fcn.py none.onnx', "file 'none.onnx' not found"),
    (f'demo.py {LONG}.png fcn.py fcn.pth', f"image '{LONG}.png' not found"),
    (f'demo.py image.png fcn.py {LONG}.onnx', f"file '{LONG}.onnx' not found"),
    ('demo.py image.png fcn.py fcn.pth --out image.png', '--out must not be IMAGE'),
    ('demo.py image.png fcn.py fcn.pth --out x.txt', '--out must be one of .'),
    ('demo.py image.png fcn.py fcn.pth --out none/x.png', "no folder 'none'"),
    ('demo.py data.png fcn.py fcn.pth --out image.png', "--out: cannot write 'image.png': Not a"),
    ('demo.py image.png fcn.py fcn.pth --device abacus', '--device abacus: Expected one of cpu'),
    (f'{LENET} --out m.onnx', 'the network cannot be exported: RuntimeError: '),
    (f'{LENET} --out m.txt', '--out must be one of .onnx'),
    (f'{LENET} --out m.onnx --raw --uint8', '--uint8 is for whole networks'),
    ('export_onnx.py fcn.py none.pth --shape 32 32 --out m.onnx', "checkpoint 'none.pth' not"),
    ('receptive_field.py none.py --images image.png', "config 'none.py' not found"),
    ('receptive_field.py fcn.py=none.pth --images image.png', "checkpoint 'none.pth' not found"),
    ('receptive_field.py fcn.py --images none.jpg', "image 'none.jpg' not found"),
    ('receptive_field.py fcn.py --images fcn.py', "cannot read image 'fcn.py'"),
    (f'{RECEPTIVE_FIELD} --stages 4', 'model.backbone: ValueError: out_indices must be one or'),
    # Before anything else is looked at.
    ('receptive_field.py none.py --out none/x.png', "no folder 'none'"),
    ('receptive_field.py none.py --out a.json', '--out must be one of .'),
    (f'{RECEPTIVE_FIELD} --device abacus', '--device abacus: Expected one of cpu'),
    (
        f'receptive_field.py {ROOT}/configs/_base_/cont_sgd_200e_in1k.py --images image.png',
        'the config has no model.backbone',
    ),
]


@pytest.mark.parametrize(('command', 'message'), MISTAKES)
def test_mistakes_are_one_line(
    command: str,
    message: str,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(image.parent)
    write_segmenter(image.parent)
    (image.parent / 'data.png').mkdir()
    shutil.copy(image, 'data.png')
    before = sorted(image.parent.iterdir())
    tool, *arguments = command.split()
    status = run_tool(monkeypatch, tool, *arguments)
    # argparse prints its line itself.
    line = status if isinstance(status, str) else capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f'{tool}: error: {message}')
    assert '\n' not in line
    assert sorted(image.parent.iterdir()) == before


def test_a_full_disk_and_what_is_read_only_are_found_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / 'link').symlink_to('nowhere')
    for folder in ('/proc/run', tmp_path / 'link/run'):  # which root cannot write either
        with pytest.raises(UserError, match='^--out: cannot write '):
            check_out(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        for path, suffixes in ((tmp_path / 'run/a', None), (tmp_path / 'a.json', ['.json'])):
            with pytest.raises(UserError, match='^--out: cannot write .*: File too large$'):
                check_out(path, suffixes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_out(tmp_path / 'run/a')
    check_out(tmp_path / 'a.json', ['.json'])
    assert [path.name for path in tmp_path.iterdir()] == ['link']


def test_a_file_with_a_long_name_is_written_whole_or_said_to_be_impossible(tmp_path: Path) -> None:
    write_json(tmp_path / f'{"x" * 250}.json', 1)
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match='^cannot write .*: File name too long$'):
        write_json(tmp_path / f'{"x" * 251}.json', 1)
    assert len(list(tmp_path.iterdir())) == 1
