"""The launchers: what they start, what they wait for, and what they refuse within seconds."""

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .cli import ROOT, free_port, launch, run
from .configs import write_tiny

LAUNCHERS = ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh')


def test_launchers_explain_themselves_also_through_links(tmp_path: Path) -> None:
    for tool in LAUNCHERS:
        assert f'usage: tools/{tool}' in run(tool, '--help', cwd=tmp_path).stdout
        assert f'usage: tools/{tool}' in run(tool, cwd=tmp_path, ok=False).stdout
    (tmp_path / 'link.sh').symlink_to(ROOT / 'tools/dist_train.sh')
    assert 'usage: tools/dist_train.sh' in run(tmp_path / 'link.sh', '-h', cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ('tool', 'gpus', 'variables', 'message'),
    [
        ('dist_train.sh', 'all', {}, "GPUS must be a number from 1 to 1024, got 'all'"),
        (
            'dist_train.sh',
            '2',
            dict(PORT='abc'),
            "PORT must be a number from 1 to 65535, got 'abc'",
        ),
        ('dist_test.sh', '2', dict(PORT='used'), r'PORT \d+ is in use: choose another'),
        ('dist_train.sh', '2', dict(NNODES='2', NODE_RANK='2'), 'NODE_RANK must be .* from 0 to 1'),
        ('dist_train.sh', '2', dict(NNODES='1; touch run'), 'NNODES must be a number'),
        ('slurm_train.sh', '', dict(GPUS='abc'), "GPUS must be a number .* got 'abc'"),
        ('slurm_train.sh', '', dict(GPUS='0'), "GPUS must be a number .* got '0'"),
        ('slurm_test.sh', '', dict(GPUS_PER_NODE='a[$(touch run)]'), 'GPUS_PER_NODE must be'),
        ('slurm_train.sh', '', dict(CPUS_PER_TASK='-1'), 'CPUS_PER_TASK must be a number'),
        ('slurm_train.sh', '', {}, 'srun not found'),
    ],
)
def test_what_cannot_start_is_one_line_at_once(
    tool: str, gpus: str, variables: dict[str, str], message: str, tmp_path: Path
) -> None:
    arguments = dict(dist_train=('c.py', gpus), dist_test=('c.py', 'c.pth', gpus))
    with socket.create_server(('', 0)) as used:
        if variables.get('PORT') == 'used':
            variables = dict(PORT=str(used.getsockname()[1]))
        (line,) = run(
            *(tool, *arguments.get(tool[:-3], ('p', 'j', 'c.py', 'work'))),
            cwd=tmp_path,
            env=variables,
            ok=False,
        ).stdout.splitlines()
    assert re.match(f'{tool}: error: {message}', line)
    assert list(tmp_path.iterdir()) == []  # bash has run nothing


@pytest.mark.slow
def test_machines_wait_for_each_other_and_say_so(tmp_path: Path) -> None:
    config = write_tiny(tmp_path)
    env = dict(NNODES='2', MASTER_ADDR='127.0.0.1', PORT=free_port())
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(launch, 'dist_train.sh', config, 1, cwd=tmp_path, env={**env, **variables})
            for variables in (dict(NODE_RANK='0'), dict(NODE_RANK='1'))
        ]
        first, second = (run.result().stdout for run in runs)
    place = f'at 127.0.0.1:{env["PORT"]}'
    assert f'dist_train.sh: waits up to 900 s for 1 more of 2 machines {place}' in first
    assert f'waits up to 900 s for the machine with NODE_RANK=0 {place}' in second
    assert (tmp_path / 'work/epoch_3.pth').exists()
    # As the launcher calls it, to wait for a second only.
    arguments = ('dist_train.sh', '2', '0', '127.0.0.1', env['PORT'], '1', '--nproc-per-node', '1')
    alone = run('_torchrun.py', *arguments, 'train.py', cwd=tmp_path, ok=False).stdout
    line = alone.splitlines()[-1]
    assert re.match(rf'dist_train.sh: error: cannot start {place} .*: Timed out after \d+ s', line)
