# Sourced by the launchers: which Python to run, and where the package is.

# The header of the calling script is its help.
usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit "$1"
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -z ${PYTHON:-} ]]; then
    # An environment that is active wins; else the one that tools/quickstart.sh made.
    if [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x $root/.venv/bin/python ]]; then
        PYTHON=$root/.venv/bin/python
    else
        PYTHON=python
    fi
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

# Operators that were compiled without CUDA fail on a GPU.
[[ ${MMCONTNET_CPU_ONLY:-} != 1 ]] || export CUDA_VISIBLE_DEVICES=

# torchrun_tool TOOL GPUS ARGS...: one process a GPU, here or on each of NNODES machines.
torchrun_tool() {
    local tool=$1 gpus=$2
    shift 2
    [[ $gpus =~ ^[1-9][0-9]*$ ]] || {
        echo "${0##*/}: error: GPUS must be a positive number, got '$gpus'" >&2
        exit 2
    }
    # In one process first: torchrun buries a worker's one line under a traceback of its own.
    "$PYTHON" "$root/tools/$tool" "$@" --check-only || exit 1
    exec "$PYTHON" -m torch.distributed.run \
        --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" \
        --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${PORT:-29500}" \
        --nproc-per-node "$gpus" \
        "$root/tools/$tool" "$@" --launcher pytorch
}

# srun_tool TOOL PARTITION JOB_NAME ARGS...: one task a GPU.
srun_tool() {
    local tool=$1 partition=$2 job_name=$3
    local gpus=${GPUS:-8} per_node=${GPUS_PER_NODE:-8}
    shift 3
    local resources=(--ntasks="$gpus")
    # GPUS_PER_NODE=0 asks for no GPUs: GPUS processes on CPUs.
    if ((per_node > 0)); then
        ((per_node <= gpus)) || per_node=$gpus
        resources+=(--gres="gpu:$per_node" --ntasks-per-node="$per_node")
    fi
    # SRUN_ARGS is a list of options: split it.
    # shellcheck disable=SC2086
    exec srun -p "$partition" --job-name="$job_name" "${resources[@]}" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        "$PYTHON" -u "$root/tools/$tool" "$@" --launcher slurm
}
