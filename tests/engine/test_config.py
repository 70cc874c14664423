"""Configs by name: mmcontnet.engine.config."""

import re
from argparse import ArgumentError, ArgumentParser
from pathlib import Path

import pytest

from mmcontnet.engine import ConfigOptions, load_config
from mmcontnet.engine import config as module
from mmcontnet.engine.config import find_config
from mmcontnet.errors import UserError

CONFIGS = Path(__file__).parents[2] / 'configs'
CLASSIFIERS = sorted(path.name for path in CONFIGS.glob('*_in1k.py'))


@pytest.mark.parametrize('config', CLASSIFIERS)
def test_every_imagenet_config_is_found_by_its_arch_and_by_its_own_name(config: str) -> None:
    (arch,) = re.findall(r'(.+)_\d+xb\d+_in1k\.py', config)
    for name in (arch, config.removesuffix('.py')):
        path = Path(find_config(name))
        assert path.name == config and path.samefile(CONFIGS / config)


def test_a_config_that_is_named_is_loaded_as_its_path_would_be() -> None:
    cfg = load_config('cont_ti')
    assert cfg.model.backbone.arch == 'ti'
    assert cfg.work_dir == 'work_dirs/cont_ti_8xb64_in1k'
    assert Path(load_config('fcos_cont_m_fpn_1x_coco').filename).is_file()


def test_models_of_mmpretrain_are_found_by_the_names_of_its_index() -> None:
    cfg = load_config('resnet18_8xb32_in1k')
    assert cfg.model.backbone == dict(
        load_config(f'mmpretrain::resnet/{Path(cfg.filename).name}').model.backbone
    )
    # Where name and file differ.
    cfg = load_config('vit-base-p32_in21k-pre_3rdparty_in1k-384px')
    assert Path(cfg.filename).name == 'vit-base-p32_64xb64_in1k-384px.py'


def test_an_installed_package_has_its_own_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'mmcontnet/.mim/configs').mkdir(parents=True)
    (tmp_path / 'configs').mkdir()  # of whatever else is installed there
    for folder in ('configs', 'mmcontnet/.mim/configs'):
        (tmp_path / folder / 'cont_x_8xb64_in1k.py').touch()
    monkeypatch.setattr(module, '__file__', str(tmp_path / 'mmcontnet/engine/config.py'))
    assert find_config('cont_x') == str(tmp_path / 'mmcontnet/.mim/configs/cont_x_8xb64_in1k.py')


def test_an_unknown_name_is_told_the_variants_and_a_path_is_just_not_found() -> None:
    with pytest.raises(UserError, match=r"^config 'cont_xl' not found; .*\(cmt_b, .*cont_m, "):
        find_config('cont_xl')
    for path in ('cont_m.py', 'configs/cont_m'):
        with pytest.raises(UserError, match=f"^config '{path}' not found$"):
            find_config(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('x = 1\ny = x.z\n', 'at .*broken.py:2: AttributeError: '),
        ('x = 1\ny = (\n', ': SyntaxError: .* line 2'),
        ("_base_ = 'none.py'\n", ': FileNotFoundError: .*none.py'),
        ("custom_imports = dict(imports=['defect'])", 'at .*defect.py:1: ZeroDivisionError: '),
    ],
)
def test_what_a_config_raises_is_told_with_its_place(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'broken.py').write_text(content)
    (tmp_path / 'defect.py').write_text('1 / 0')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=rf"^cannot read config '.*broken\.py' ?{message}") as e:
        load_config(str(tmp_path / 'broken.py'))
    assert e.value.__cause__ is not None


def test_options_that_do_not_fit_are_named() -> None:
    with pytest.raises(UserError, match=r'^--cfg-options do not fit .*: '):
        load_config('cont_ti', {'model.backbone.arch.depth.0': 3})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    for text in ('model', 'model.arch=(1,2'):
        with pytest.raises(ArgumentError, match=r'must be KEY=VALUE, got \['):
            parser.parse_args(['--cfg-options', text])
