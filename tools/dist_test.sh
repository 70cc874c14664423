#!/usr/bin/env bash
# usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
#
# Tests with one process a GPU; on a machine without GPUs, with GPUS processes on the CPU.
# NNODES, NODE_RANK, MASTER_ADDR, PORT and TIMEOUT are as for tools/dist_train.sh.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/_launch.sh"
[[ ${1:-} != -h && ${1:-} != --help ]] || usage 0
(($# >= 3)) || usage 2 >&2
torchrun_tool test.py "$3" "$1" "$2" "${@:4}"
