#!/usr/bin/env bash
# usage: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
#
# Tests under SLURM with one task a GPU.
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS are as for tools/slurm_train.sh.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/_launch.sh"
[[ ${1:-} != -h && ${1:-} != --help ]] || usage 0
(($# >= 4)) || usage 2 >&2
srun_tool test.py "$1" "$2" "$3" "$4" "${@:5}"
