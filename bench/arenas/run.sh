#!/usr/bin/env bash
# An ablation grid: the same model, data and number of tokens for every line of a grid and every seed, then the table.
#
#   bench/arenas/run.sh RUNS [GRID [KEY=VALUE ...]]
#
# GRID: a file of lines "NAME KEY=VALUE ...", or one of grids/ by its name (methods, baselines, schedules, scales; default:
# methods). KEY=VALUE goes for all of its runs. Variables:
#   SHERRY  the program (default: sherry)
#   RECIPE  the configuration (default: configs/arenas-miniature.toml)
#   SEEDS   default: "1 2 3"
#   JOBS    runs at a time, one thread each (default: 2)
# Runs that are finished are not repeated. docs/experiments.md has figures, docs/paper-run.md the grid of the paper.
set -euo pipefail
runs=${1:?folder for the runs}
grid=${2:-methods}
shift; shift || true
here=$(cd "$(dirname "$0")" && pwd)
[[ -e $grid ]] || grid=$here/grids/$grid
[[ -e $grid ]] || { echo "$grid: no such grid; there are: $(ls "$here/grids" | tr '\n' ' ')" >&2; exit 2; }
mkdir -p "$runs"
runs=$(cd "$runs" && pwd)
export runs sherry=${SHERRY:-sherry} recipe=${RECIPE:-$here/../../configs/arenas-miniature.toml}

one() {
    local name=$1 seed=$2
    shift 2
    [[ -e $runs/$name-$seed/done ]] && return
    "$sherry" train "$recipe" --run "$runs/$name-$seed" seed="$seed" data.cache="\"$runs/cache\"" "$@" \
        > "$runs/$name-$seed.log" 2>&1 || { cat "$runs/$name-$seed.log" >&2; return 255; } # 255 ends xargs
    touch "$runs/$name-$seed/done"
    echo "$name, seed $seed: $(tail -n 1 "$runs/$name-$seed/metrics.jsonl" | grep -o '"valid_loss":[0-9.]*')"
}
export -f one

for seed in ${SEEDS:-1 2 3}; do
    grep -v '^ *\(#\|$\)' "$grid" | while read -r name changes; do
        printf '%q ' one "$name" "$seed" $changes "$@"
        printf '\0'
    done
done | xargs -0 -P "${JOBS:-2}" -I {} bash -c '{}'

if command -v python3 >/dev/null; then
    python3 "$here/figure.py" "$runs" | tee "$runs/table.md"
fi
