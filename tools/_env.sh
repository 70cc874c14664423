# Sourced by the other scripts, `source tools/_env.sh [--dev]`: makes the environment if need be,
# sets PYTHON to its interpreter, and puts the repository first on PYTHONPATH.

_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
_accepted='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'
_python=
# Plain `python` comes first: it is the one of an active virtualenv or conda environment.
for _candidate in python python3 python3.12 python3.11 python3.10; do
    if "$_candidate" -c "$_accepted" 2>/dev/null; then
        _python=$_candidate
        break
    fi
done
if [ -z "$_python" ]; then
    echo 'mmcontnet needs Python 3.10, 3.11 or 3.12, and finds none' >&2
    exit 1
fi
# Operators compiled without CUDA fail on a GPU: what hides it from the compilation hides it from
# the runs as well.
[ "${MMCONTNET_CPU_ONLY-}" != 1 ] || export CUDA_VISIBLE_DEVICES=
PYTHON=$("$_python" "$_root/tools/setup_env.py" "$@") || exit 1
export PYTHON
export PYTHONPATH="$_root${PYTHONPATH:+:$PYTHONPATH}"
