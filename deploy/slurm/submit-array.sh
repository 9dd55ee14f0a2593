#!/bin/bash
# One large scan as an array of jobs that know of no other: no Dask, no open port.
#
#     ./submit-array.sh SHARES OUT SCAN [options of mrsi blocks plan]
#
# Three jobs that wait for each other: plan, SHARES of the blocks, finish. The same line again does
# what is missing.
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; fi
shares=$1 out=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
options=(--parsable --kill-on-invalid-dep=yes)
plan=$(sbatch "${options[@]}" "$here/array/plan.sbatch" --out "$out" "$@")
run=$(sbatch "${options[@]}" --dependency="afterok:$plan" --array="0-$((shares - 1))" \
    "$here/array/run.sbatch" "$out" "$shares")
# afterany: of an array of which a job failed it says which blocks are missing.
finish=$(sbatch "${options[@]}" --dependency="afterany:$run" "$here/array/finish.sbatch" "$out")
echo "plan: job $plan, blocks: array $run, finish: job $finish; its log is mrsi-$finish.out"
