#!/usr/bin/env bash
# usage: tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
#
# Trains with one process a GPU; on a machine without GPUs, with GPUS processes on the CPU.
# Several machines: run it on each, with
#   NNODES       number of machines (1)
#   NODE_RANK    number of this one, from 0 (0)
#   MASTER_ADDR  address of the first (127.0.0.1)
#   PORT         a free port of the first (29500)
#   TIMEOUT      seconds to wait for the others (900)
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/_launch.sh"
[[ ${1:-} != -h && ${1:-} != --help ]] || usage 0
(($# >= 2)) || usage 2 >&2
torchrun_tool train.py "$2" "$1" "${@:3}"
