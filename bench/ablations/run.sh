#!/usr/bin/env bash
# What each stage of `sherry calibrate` is worth: one model, one thing changed at a time, then a table.
#
#   bench/ablations/run.sh MODEL OUT DATA TEXT
#
# MODEL: the full-precision model. OUT: folder for models and results. DATA: files to calibrate on, separated by commas.
# TEXT: what perplexity is measured on. Variables:
#   SHERRY  the program (default: sherry)
#   TOKENS  to round for (default: 8192); twice as many are tuned on, and as many trained on
#   ONLY    names of variants (default: all)
# Variants that are finished are not repeated, and one that was stopped goes on.
set -euo pipefail
model=${1:?model} out=${2:?folder for the models} data=${3:?files to calibrate on} text=${4:?text to measure on}
sherry=${SHERRY:-sherry} tokens=${TOKENS:-8192}
mkdir -p "$out"

# variant NAME ROUNDING OPTION=VALUE...: variants of the same ROUNDING share that work.
variant() {
    local name=$1 rounding=$2 option
    shift 2
    if [[ -n ${ONLY:-} && " $ONLY " != *" $name "* ]]; then return; fi
    if [[ ! -e $out/$name ]]; then
        local -A options=([tokens]=$tokens [held-out]=4096 [sweeps]=6 [column-fits]=1 [own-text]=0.33
            [tune-tokens]=$((2 * tokens)) [tune-batch]=1 [train-batch]=4)
        for option in "$@"; do options[${option%%=*}]=${option#*=}; done
        local arguments=(--data "$data" --work "$out/$rounding.work")
        for option in "${!options[@]}"; do arguments+=("--$option" "${options[$option]}"); done
        local begun=$SECONDS
        "$sherry" calibrate "$model" "$out/$name" "${arguments[@]}"
        echo $((SECONDS - begun)) > "$out/$name.seconds"
    fi
    if [[ ! -e $out/$name.ppl.json ]]; then
        "$sherry" eval "$out/$name" --ppl "$text" --ppl-mode disjoint --ppl-window 512 --json > "$out/$name.ppl.json.part"
        mv "$out/$name.ppl.json.part" "$out/$name.ppl.json"
    fi
}

variant base base
variant no-tuning base tune-tokens=0
variant trained base train-tokens=$((2 * tokens))
variant trained-slower base train-tokens=$((2 * tokens)) train-code-rate=0.002
variant trained-residual base train-tokens=$((2 * tokens)) train-residual=0.3
# Twice the text for one of both, step by step alike: one sequence a step.
variant tuned-x2 base tune-tokens=$((4 * tokens))
variant trained-only base tune-tokens=0 train-tokens=$((4 * tokens)) train-batch=1 train-rate=0.008
variant trained-only-faster base tune-tokens=0 train-tokens=$((4 * tokens)) train-batch=1 train-rate=0.008 train-code-rate=0.01
# Damping far beyond all moments leaves the nearest values of the original weights: no error feedback, no targets.
variant no-rounding projection damping=1000 sweeps=0 column-fits=0
variant no-descent feedback sweeps=0
variant no-column-factors rows column-fits=0
variant reconstruction reconstruction reconstruct=3
variant reconstruction-codes codes reconstruct=3 reconstruct-code-rate=0.004
variant reconstruction-codes-residual codes-residual reconstruct=3 reconstruct-code-rate=0.004 reconstruct-residual=0.3
variant adaptation adaptation adapt-tokens="$tokens" adapt-every=3
variant groups-of-64 groups group-size=64
variant ternary ternary type=ternary
variant two-bits two-bits type=steps-2
variant own-text-only own own-text=1
variant no-own-text corpora own-text=0
variant spaced-text spaced spaced-text=0.5
variant spaced-no-own-text spaced-corpora spaced-text=0.5 own-text=0
variant own-text-x4 own-x4 own-text=0.67 tokens=$((4 * tokens))
for times in 2 4 8; do
    variant "tokens-x$times" "tokens-x$times" tokens=$((times * tokens))
done
python3 "$(dirname "$0")/table.py" "$out"
