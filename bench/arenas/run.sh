#!/usr/bin/env bash
# Arenas in miniature: six methods, three seeds, the same model, data and number of tokens (docs/experiments.md).
#
#   SHERRY_DATA=../shared/data bench/arenas/run.sh RUNS && python3 bench/arenas/figure.py RUNS
#
# SHERRY: the program, JOBS: runs at a time, one thread each. Runs that are finished are not repeated.
set -euo pipefail
runs=${1:?folder for the runs}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$runs"
runs=$(cd "$runs" && pwd)
corpus=$(cd "${SHERRY_DATA:-$here/../../../shared/data}/corpus" && pwd)
export sherry=${SHERRY:-sherry} recipe=$here/../../configs/arenas-miniature.toml runs corpus

one() {
    local name=$1 seed=$2
    shift 2
    [ -e "$runs/$name-$seed/done" ] && return
    "$sherry" train "$recipe" --run "$runs/$name-$seed" seed="$seed" \
        data.train="[\"$corpus/openstax-train.jsonl.zst\"]" data.valid="[\"$corpus/openstax-valid.jsonl.zst\"]" \
        data.cache="\"$runs/cache\"" "$@" > "$runs/$name-$seed.log" 2>&1
    touch "$runs/$name-$seed/done"
    echo "$name, seed $seed: $(tail -n 1 "$runs/$name-$seed/metrics.jsonl" | grep -o '"valid_loss":[0-9.]*')"
}
export -f one

for seed in 1 2 3; do
    cat <<METHODS
sherry-arenas $seed
sherry $seed arenas.shape=off
binary-arenas $seed quantizer.method=binary
binary $seed quantizer.method=binary arenas.shape=off
absmean $seed quantizer.method=absmean arenas.shape=off
f32 $seed quantizer.method=none arenas.shape=off
METHODS
done | xargs -P "${JOBS:-2}" -I {} bash -c 'one {}'
