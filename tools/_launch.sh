# Sourced by the launchers: which Python to run, and where the package is.

# The header of the calling script is its help.
usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit "$1"
}

fail() {
    echo "${0##*/}: error: $1" >&2
    exit 1
}

# number NAME MIN MAX: checks the variable of that name; bash would compute what it holds.
number() {
    [[ ${!1} =~ ^(0|[1-9][0-9]{0,5})$ ]] && ((${!1} >= $2 && ${!1} <= $3)) ||
        fail "$1 must be a number from $2 to $3, got '${!1}'"
}

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
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
    local tool=$root/tools/$1 GPUS=$2 address=${MASTER_ADDR:-127.0.0.1}
    local NNODES=${NNODES:-1} NODE_RANK=${NODE_RANK:-0} PORT=${PORT:-29500} TIMEOUT=${TIMEOUT:-900}
    shift 2
    number GPUS 1 1024
    number NNODES 1 99999
    number NODE_RANK 0 $((NNODES - 1))
    number PORT 1 65535
    number TIMEOUT 1 99999
    # Before the checks, which take longer. What else keeps from listening there torchrun tells.
    if ((NODE_RANK == 0)) && (: <>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then
        fail "PORT $PORT is in use: choose another"
    fi
    # In one process first: torchrun buries a worker's one line under a traceback of its own.
    "$PYTHON" "$tool" "$@" --check-only || exit 1
    exec "$PYTHON" "$root/tools/_torchrun.py" \
        "${0##*/}" "$NNODES" "$NODE_RANK" "$address" "$PORT" "$TIMEOUT" \
        --nproc-per-node "$GPUS" "$tool" "$@" --launcher pytorch
}

# srun_tool TOOL PARTITION JOB_NAME ARGS...: one task a GPU.
srun_tool() {
    local tool=$1 partition=$2 job_name=$3
    local GPUS=${GPUS:-8} GPUS_PER_NODE=${GPUS_PER_NODE:-8} CPUS_PER_TASK=${CPUS_PER_TASK:-5}
    shift 3
    number GPUS 1 99999
    number GPUS_PER_NODE 0 1024
    number CPUS_PER_TASK 1 1024
    command -v srun >/dev/null || fail 'srun not found: this is no machine of a SLURM cluster'
    local resources=(--ntasks="$GPUS") options
    # GPUS_PER_NODE=0 asks for no GPUs: GPUS processes on CPUs.
    if ((GPUS_PER_NODE > 0)); then
        ((GPUS_PER_NODE <= GPUS)) || GPUS_PER_NODE=$GPUS
        resources+=(--gres="gpu:$GPUS_PER_NODE" --ntasks-per-node="$GPUS_PER_NODE")
    fi
    read -ra options <<<"${SRUN_ARGS:-}"
    exec srun -p "$partition" --job-name="$job_name" "${resources[@]}" \
        --cpus-per-task="$CPUS_PER_TASK" --kill-on-bad-exit=1 "${options[@]}" \
        "$PYTHON" -u "$root/tools/$tool" "$@" --launcher slurm
}
