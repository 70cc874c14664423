"""Several processes: mmcontnet.engine.distributed."""

import sys
from pathlib import Path
from subprocess import PIPE, Popen
from textwrap import dedent

import pytest
from mmengine.config import ConfigDict

from mmcontnet.engine.distributed import is_first_process, replace_sync_bn


def test_sync_bn_is_replaced_wherever_a_model_names_it() -> None:
    norm = dict(type='SyncBN', requires_grad=True)
    model = ConfigDict(backbone=dict(norm_cfg=norm), heads=[dict(norm_cfg=norm), dict(x=1)])
    assert replace_sync_bn(model)
    assert model.backbone.norm_cfg.type == 'BN'
    assert model.heads[0].norm_cfg == dict(type='BN', requires_grad=True)
    assert not replace_sync_bn(model)


@pytest.mark.parametrize(
    ('launcher', 'environment', 'first'),
    [
        ('none', dict(RANK='1', LOCAL_RANK='1'), (True, True)),
        ('pytorch', dict(RANK='2', LOCAL_RANK='0', SLURM_PROCID='0'), (False, True)),
        ('pytorch', dict(RANK='3', LOCAL_RANK='1', SLURM_LOCALID='0'), (False, False)),
        # Where the command line sets the default of --local-rank.
        ('slurm', dict(SLURM_PROCID='1', SLURM_LOCALID='1', LOCAL_RANK='0'), (False, False)),
        ('slurm', dict(SLURM_PROCID='2', SLURM_LOCALID='0', LOCAL_RANK='0'), (False, True)),
    ],
)
def test_one_process_is_the_first_and_one_on_each_node(
    launcher: str,
    environment: dict[str, str],
    first: tuple[bool, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (is_first_process(launcher), is_first_process(launcher, on_node=True)) == first


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel of Linux ends them')
def test_processes_end_when_torchrun_is_killed(tmp_path: Path) -> None:
    script = """
        import time
        from mmcontnet.engine.distributed import end_with_torchrun
        end_with_torchrun()
        print('runs', flush=True)
        time.sleep(600)
    """
    (tmp_path / 'work.py').write_text(dedent(script))
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', tmp_path / 'work.py']
    with Popen(command, stdout=PIPE, text=True) as launcher:
        assert launcher.stdout is not None and launcher.stdout.readline() == 'runs\n'
        launcher.kill()
        # Until nobody can write any more.
        assert launcher.communicate(timeout=60)[0] == ''
