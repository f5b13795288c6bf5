#!/usr/bin/env bash
# Perplexity over bits: one model within several budgets, then a table and a picture.
#
#   bench/mixed/run.sh MODEL OUT DATA TEXT
#
# MODEL: the full-precision model. OUT: folder for the models and results. DATA: files to calibrate on, separated by commas.
# TEXT: what perplexity is measured on. Variables:
#   SHERRY  the program (default: sherry)
#   BITS    budgets per linear weight (default: "1.25 1.4 1.6 2 3 4"); 1.25 stands for 1.25-bit codes everywhere, whose scales
#           come on top
#   OPTIONS of `sherry calibrate` (default: those of the recipe in docs/post-training.md, forty minutes for each budget)
# Sensitivities are measured once. Budgets that are finished are not repeated, and one that was stopped goes on.
set -euo pipefail
model=${1:?model} out=${2:?folder for the models} data=${3:?files to calibrate on} text=${4:?text to measure on}
sherry=${SHERRY:-sherry}
read -ra options <<< "${OPTIONS:---own-text 0.15 --spaced-text 0.5 --sweeps 6 --column-fits 1 --tune-tokens 131072 --tune-batch 1}"
mkdir -p "$out"
for bits in ${BITS:-1.25 1.4 1.6 2 3 4}; do
    name=$out/$bits
    if [[ $bits == 1.25 ]]; then types=(--type sherry-1.25); else types=(--bits "$bits" --sensitivity "$out/sensitivity.json"); fi
    if [[ ! -e $name ]]; then
        "$sherry" calibrate "$model" "$name" --data "$data" "${types[@]}" "${options[@]}"
    fi
    if [[ ! -e $name.ppl.json ]]; then
        "$sherry" eval "$name" --ppl "$text" --ppl-mode disjoint --ppl-window 512 --json > "$name.ppl.json.part"
        "$sherry" inspect "$name" --json > "$name.inspect.json"
        mv "$name.ppl.json.part" "$name.ppl.json"
    fi
done
python3 "$(dirname "$0")/figure.py" "$out" --figure "$out/curve.svg"
