#!/usr/bin/env bash
# usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
#
# Trains under SLURM with one task a GPU. Environment:
#   GPUS           number of tasks (8)
#   GPUS_PER_NODE  GPUs a machine (8); 0 runs on CPUs
#   CPUS_PER_TASK  CPU cores a task (5)
#   SRUN_ARGS      more options for srun
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/_launch.sh"
[[ ${1:-} != -h && ${1:-} != --help ]] || usage 0
(($# >= 4)) || usage 2 >&2
srun_tool train.py "$1" "$2" "$3" --work-dir "$4" "${@:5}"
