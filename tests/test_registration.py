"""The package as a stranger has it: pip-installed, in a fresh process, outside the repository."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package, without its dependencies, into a folder of its own."""
    folder = tmp_path_factory.mktemp('installed')
    # From a copy: a build leaves folders behind, and other tests may build at the same time.
    ignore = shutil.ignore_patterns('.*', 'data', 'work_dirs', 'build', '*.egg-info', '__pycache__')
    shutil.copytree(ROOT, folder / 'checkout', ignore=ignore)
    subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-build-isolation']
        + ['--target', str(folder / 'site'), str(folder / 'checkout')],
        check=True,
        cwd=folder,
    )
    return folder / 'site'


def run_outside(script: str, site: Path, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(script)],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(site)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.mark.slow
def test_the_readmes_config_trains_with_an_import_or_a_scope(site: Path, tmp_path: Path) -> None:
    # As a reader takes it, by copy and paste.
    config = (ROOT / 'README.md').read_text().split('```python\n')[1].split('```')[0]
    (tmp_path / 'import.py').write_text(config)
    config = config.replace("custom_imports = dict(imports=['mmcontnet']", 'unused = dict(x=1')
    config = config.replace("type='ConTNet'", "type='mmcontnet.ConTNet'")
    assert 'custom_imports' not in config
    (tmp_path / 'scope.py').write_text(config)
    out = run_outside(
        """
        import os, sys, torch
        from mmengine.config import Config
        from mmengine.optim import build_optim_wrapper
        from mmengine.registry import MODELS, init_default_scope
        from mmdet.testing import demo_mm_inputs

        init_default_scope('mmdet')
        if pid := os.fork():  # neither sees what the other imports
            assert os.waitpid(pid, 0)[1] == 0
        assert 'mmcontnet' not in sys.modules
        cfg = Config.fromfile('import.py' if pid else 'scope.py')
        model = MODELS.build(cfg.model)
        model.init_weights()
        print('found', sys.modules['mmcontnet'].__file__, flush=True)
        optim = build_optim_wrapper(model, cfg.optim_wrapper)
        data = demo_mm_inputs(2, [[3, 90, 120], [3, 128, 70]], num_classes=80)
        before = model.backbone.stem.conv.weight.clone()
        losses = model.train_step(data, optim)
        assert all(torch.isfinite(v) for v in losses.values()), losses
        assert not torch.equal(before, model.backbone.stem.conv.weight)
        """,
        site,
        tmp_path,
    )
    assert out.count(f'found {site}') == 2


def test_import_needs_neither_the_downstream_packages_nor_mmcvs_operators(
    site: Path, tmp_path: Path
) -> None:
    run_outside(
        """
        import sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.split('.')[0] in ('mmdet', 'mmseg', 'mmpretrain') or name == 'mmcv._ext':
                    raise ModuleNotFoundError(f'no {name} here')

        sys.meta_path.insert(0, Missing())
        import mmcontnet
        from mmengine.registry import MODELS
        import torch

        for name in ('ConTNet', 'mmcontnet.ConTNet'):
            backbone = MODELS.build(dict(type=name, arch='ti'))
            assert backbone(torch.randn(2, 3, 64, 64))[0].shape == (2, 768, 2, 2)
        assert type(mmcontnet.create_backbone('cont_ti')) is mmcontnet.ConTNet
        assert 'mmcv.ops' not in sys.modules
        """,
        site,
        tmp_path,
    )


def test_configs_and_tools_lie_where_openmmlab_looks_for_them(site: Path) -> None:
    mim = site / 'mmcontnet/.mim'
    assert (mim / 'configs/retinanet_cont_m_fpn_1x_coco.py').is_file()
    assert (mim / 'tools/dist_train.sh').is_file()
