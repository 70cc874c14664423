"""The launchers: what they start, what they wait for, and what they refuse within seconds."""

import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .cli import ROOT, free_port, launch, run
from .configs import write_tiny

LAUNCHERS = ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh')
# What srun does as far as a task can see, with a record of how it was called.
SRUN = """#!/usr/bin/env bash
echo "srun $*"
while [[ $1 == -* ]]; do
    [[ $1 == --ntasks=* ]] && export SLURM_NTASKS=${1#--ntasks=}
    if [[ $1 == -p ]]; then shift; fi
    shift
done
[[ -n ${SLURM_NODELIST:-} ]] || exit 0
for ((i = 0; i < SLURM_NTASKS; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
    tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || exit 1; done
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Put stand-ins for SLURM's commands on the PATH."""
    for name, script in dict(srun=SRUN, scontrol='#!/usr/bin/env bash\necho localhost\n').items():
        (tmp_path / 'bin').mkdir(exist_ok=True)
        (tmp_path / 'bin' / name).write_text(script)
        (tmp_path / 'bin' / name).chmod(0o755)
    return f'{tmp_path}/bin:{os.environ["PATH"]}'


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


@pytest.mark.slow
def test_slurm_tasks_train(path: str, tmp_path: Path) -> None:
    variables = dict(GPUS='2', GPUS_PER_NODE='0', SLURM_NODELIST='localhost', SRUN_ARGS='--time=5')
    env = dict(variables, PATH=path, MASTER_PORT=free_port())
    config = write_tiny(tmp_path)
    trained = run('slurm_train.sh', 'gpu', 'job', config, 'work', cwd=tmp_path, env=env).stdout
    assert 'srun -p gpu --job-name=job --ntasks=2 --cpus-per-task=5 --kill-on' in trained
    assert '--kill-on-bad-exit=1 --time=5' in trained
    assert 'Epoch(train) [3][1/1]' in trained  # of two processes
    assert (tmp_path / 'work/epoch_3.pth').exists()


def test_slurm_asks_for_gpus(path: str, tmp_path: Path) -> None:
    for tool, rest in (('train', '--work-dir work'), ('test', 'work')):
        command = (f'slurm_{tool}.sh', 'part', 'job', 'c.py', 'work', '--amp')
        out = run(*command, cwd=tmp_path, env=dict(PATH=path, GPUS='16')).stdout
        assert '--ntasks=16 --gres=gpu:8 --ntasks-per-node=8' in out
        assert out.rstrip().endswith(f'{tool}.py c.py {rest} --amp --launcher slurm')
