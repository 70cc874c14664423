#!/usr/bin/env bash
# Trains a small detector on real photographs, from nothing to pictures of what it finds:
#
#   tools/quickstart.sh
#
# 1. makes the environment .venv, unless the one it is started in has everything
# 2. fetches aerial photographs with annotated tree crowns into data/tree_crowns
# 3. trains a RetinaNet with a ConTNet backbone (a GPU is used if there is one)
# 4. evaluates it on areas it has not seen, and draws detections
#
# After the environment is there, this takes 5 to 10 minutes on two cores without a GPU. It may be
# interrupted at any time: start it again, and it continues where it stopped. Results are in
# work_dirs/quickstart; to train anew, remove that folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=configs/retinanet_cont_ti_fpn_1000i_tree_crowns.py
last=iter_1000.pth
data=data/tree_crowns
run=work_dirs/quickstart

say() { printf '\n==> %s\n' "$*"; }
fail() {
    # Whatever a program says when it cannot write, this is why.
    (($(df -Pk . | awk 'NR == 2 { print $4 }') > 20000)) || set -- 'the disk is full'
    printf 'quickstart.sh: %s\n' "$*" >&2
    exit 1
}

# show LOG SED-SCRIPT COMMAND...: all output goes to LOG, what the script makes of it to the screen.
show() {
    local log=$1 script=$2
    shift 2
    : >"$log" || fail "cannot write $log"
    "$@" >>"$log" 2>&1 &
    child=$!
    tail -n +1 -s 0.5 -f --pid="$child" "$log" 2>/dev/null 9>&- | sed -unE "$script" &
    wait "$child" || fail "$(grep -v '^\s*$' "$log" | tail -n 1) (all of it: $log)"
    wait
}

case "${1-}" in
'') ;;
-h | --help) exec sed -n '2,/^set /{/^set /!s/^# \?//p}' tools/quickstart.sh ;;
*) fail "unknown argument $1; see --help" ;;
esac

say 'Environment (3 to 10 minutes if it has to be made, else seconds)'
source tools/_env.sh
echo "  Python: $PYTHON"

child=
trap '[ -z "$child" ] || kill "$child" 2>/dev/null || true
      echo "quickstart.sh: interrupted; start it again to continue" >&2; exit 130' INT TERM HUP
started=$SECONDS
mkdir -p "$run" 2>/dev/null || fail "cannot write $run"
exec 9>"$run/lock"
flock -n 9 || { say 'Another quickstart is at work here: waiting for it' && flock 9; }

# Data loading shares the cores with PyTorch's threads, which should sleep while they wait.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore

say "Photographs with annotated tree crowns in $data (20 MB, seconds)"
"$PYTHON" tools/prepare_tree_crowns.py "$data" | sed 's/^/  /' || exit 1

# mmengine names a checkpoint in this file once it is complete.
done_before=$(basename "$(cat "$run/last_checkpoint" 2>/dev/null || true)")
[ -f "$run/${done_before:-.}" ] || done_before=
if [ "$done_before" = "$last" ]; then
    say "Training: done before ($run/$last)"
else
    say "Training a RetinaNet with a ConT-Ti backbone, 1000 iterations${done_before:+, continuing from $done_before}" \
        '(5 to 10 minutes on two cores, one on a GPU)'
    show "$run/train.txt" '
        s/.*Iter\(train\) \[ *([0-9]+)\/([0-9]+)\].* eta: ([0-9:]+).* loss: ([0-9.]+).*/  \1 of \2 iterations, loss \4, \3 left/p
        s/.*Iter\(val\).*bbox_mAP: ([0-9.]+).*bbox_mAP_50: ([0-9.]+).*/  so far: bbox_mAP \1, bbox_mAP_50 \2/p' \
        "$PYTHON" tools/train.py "$config" --work-dir "$run" ${done_before:+--resume "$run/$done_before"}
fi

if [ "$run/test/done" -nt "$run/$last" ]; then
    say 'Evaluation and pictures: done before'
else
    say 'Evaluation and pictures of the areas not seen in training (half a minute)'
    show "$run/test.txt" \
        's/^ (Average .*)/  \1/p' \
        "$PYTHON" tools/test.py "$config" "$run/$last" --work-dir "$run/test" \
        --show-dir "$run/pictures"
    touch "$run/test/done"
fi
map() { sed -nE "s/.*coco\/$1: ([0-9.]+).*/\1/p" "$run/test.txt" | tail -n 1; }
cat <<END
  detections beside annotations: $run/pictures, one picture a tile (annotated left, detected right)

==> Done in $(((SECONDS - started + 59) / 60)) minutes: bbox_mAP $(map bbox_mAP), bbox_mAP_50 $(map bbox_mAP_50)

With COCO in data/coco, the next step is, for 8 GPUs:
  tools/dist_train.sh configs/retinanet_cont_m_fpn_1x_coco.py 8
END
