"""Several processes: mmcontnet.engine.distributed."""

import os
import socket
import sys
from pathlib import Path
from subprocess import PIPE, Popen, run
from textwrap import dedent

import pytest
import torch
from mmengine.config import Config, ConfigDict

from mmcontnet.engine.distributed import is_first_process, process_group, replace_sync_bn
from mmcontnet.errors import UserError


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


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU has SyncBN')
def test_several_processes_without_a_gpu_have_no_sync_bn(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = str(server.getsockname()[1])
    variables = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1')
    for name, value in (variables | dict(MASTER_PORT=port)).items():
        monkeypatch.setenv(name, value)
    for norm, replaced in (('SyncBN', True), ('BN', False)):
        model = dict(norm_cfg=dict(type=norm))
        with process_group(Config(dict(launcher='pytorch', model=model))) as found:
            assert found is replaced


@pytest.mark.gpu
def test_more_processes_than_gpus_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = dict(RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='0')
    for name, value in (variables | dict(LOCAL_RANK='99')).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match='no GPU for process 100 of this machine'):
        with process_group(Config(dict(launcher='pytorch', model={}))):
            pass


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
    # Killed before this process could ask to be ended.
    env = dict(os.environ, TORCHELASTIC_RUN_ID='none', MMCONTNET_LAUNCHER='0')
    late = run([sys.executable, tmp_path / 'work.py'], env=env, capture_output=True, text=True)
    assert (late.stdout, late.stderr.splitlines()[-1]) == ('', 'the launcher was killed')


@pytest.mark.parametrize(
    ('launcher', 'environment', 'message'),
    [
        ('pytorch', {}, '^--launcher pytorch is for .* no RANK, LOCAL_RANK, WORLD_SIZE, MASTER_A'),
        ('slurm', dict(SLURM_NTASKS='1'), 'has no SLURM_PROCID, SLURM_LOCALID, SLURM_NODELIST$'),
        (
            'slurm',
            dict(SLURM_NODELIST='a', PATH=''),
            'scontrol show hostnames a: .* set MASTER_ADDR',
        ),
        ('slurm', dict(SLURM_NODELIST='a', MASTER_ADDR='127.0.0.1'), 'meet at 127.* in use'),
    ],
)
def test_processes_that_cannot_meet_are_one_line(
    launcher: str, environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if 'SLURM_NODELIST' in environment:
        environment |= dict(SLURM_PROCID='0', SLURM_LOCALID='0', SLURM_NTASKS='1')
    with monkeypatch.context() as patch, socket.create_server(('127.0.0.1', 0)) as used:
        for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR'):
            patch.setenv(name, '')  # what is set below goes afterwards
            patch.delenv(name)
        patch.setenv('MASTER_PORT', str(used.getsockname()[1]))
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(UserError, match=message):
            with process_group(Config(dict(launcher=launcher, model={}))):
                pass
