#!/usr/bin/env python3
"""The table of run.sh: table.py OUT. Python 3.9, no packages."""

import json
import sys
from pathlib import Path

out = Path(sys.argv[1])
print("| variant | rounded: apart after the last block, fitted / held out | rounded: perplexity held out | finished | WikiText-2 | minutes |")
print("|---|---:|---:|---:|---:|---:|")
for path in sorted(out.glob("*.ppl.json"), key=lambda path: path.stat().st_mtime):
    name = path.name.removesuffix(".ppl.json")
    report = json.loads((out / f"{name}.report.json").read_text(encoding="utf-8"))
    wiki = json.loads(path.read_text(encoding="utf-8"))["sherry"]["perplexity"][0]["perplexity"]
    last = report["blocks"][-1]
    finished = report.get("trained") or report.get("tuned") or report["rounded"]
    minutes = float((out / f"{name}.seconds").read_text(encoding="utf-8")) / 60
    print(f"| {name} | {last['calibration_error']:.3f} / {last['held_out_error']:.3f} | {report['rounded']['perplexity']:.1f} "
          f"| {finished['perplexity']:.1f} | {wiki:.1f} | {minutes:.1f} |")
