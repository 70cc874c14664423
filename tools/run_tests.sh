#!/usr/bin/env bash
# Runs lint, types and all tests; with arguments, pytest alone with these arguments:
#
#   tools/run_tests.sh                        everything, as CI does
#   tools/run_tests.sh -m "not slow"          what takes some 5 minutes on two cores
#   tools/run_tests.sh --lint                 lint and types alone
#   tools/run_tests.sh tests/test_x.py -k y   what pytest selects by `tests/test_x.py -k y`
#   tools/run_tests.sh --upstream [...]       the same with upstream's mmengine 0.10.7, mmcv-lite 2.1.0
#                                             and torch 2.4: without arguments, what needs no more
#
# Makes the environment first if there is none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${1-}" = --upstream ]; then
    shift
    source tools/_env.sh --upstream
    if [ $# -eq 0 ]; then
        # Left out: what needs mmdet, and, of PyTorch 2.4 without a GPU, counting on fake tensors,
        # fake CUDA tensors, and Triton 3.0's interpreter, which lacks a product of constants.
        ops=tests/ops/test_local_aggregation.py
        set -- tests/backbones tests/layers tests/ops tests/weights/test_convert.py \
            tests/test_registration.py \
            --deselect tests/test_registration.py::test_the_readmes_config \
            --deselect tests/ops/test_conv_gelu.py::test_counters_and_fake_tensors_know_the_op \
            --deselect "$ops::test_multiply_adds_are_counted_on_shapes_alone" \
            --deselect "$ops::test_fake_cuda_tensors_have_the_shapes_and_formats_of_real_ones" \
            --deselect "$ops::test_the_kernels_equal_the_reference_in_tritons_interpreter"
    fi
else
    source tools/_env.sh --dev
    if [ $# -eq 0 ] || [ "$1" = --lint ]; then
        "$PYTHON" -m ruff check .
        "$PYTHON" -m ruff format --check .
        "$PYTHON" -m mypy mmcontnet
    fi
    [ "${1-}" != --lint ] || exit 0
fi

# Two processes, and no more threads than cores in all.
cores=$("$PYTHON" -c 'import os; print(len(os.sched_getaffinity(0)))')
processes=$((cores < 2 ? 1 : 2))
export OMP_NUM_THREADS=$((cores / processes)) MKL_NUM_THREADS=$((cores / processes))
exec "$PYTHON" -m pytest -n "$processes" --dist worksteal "$@"
