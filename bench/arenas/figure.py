"""Table (Markdown, to stdout) and figure (SVG) of the runs that run.sh made.

python3 figure.py RUNS [--figure arenas.svg] [--baseline f32]

RUNS holds run folders METHOD-SEED. Values are means over seeds; the spread in the table is the sample standard deviation,
the band in the figure goes from the lowest to the highest seed.
"""

import argparse
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from xml.sax.saxutils import escape

# Okabe and Ito: distinct to colour-blind eyes.
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000", "#56b4e9", "#8a6d3b", "#999999"]
KINDS = ["q", "k", "v", "o", "gate", "up", "down"]


def read(folder):
    """{method: {seed: [metric lines]}}"""
    runs = defaultdict(dict)
    for path in sorted(folder.glob("*/metrics.jsonl")):
        name = re.fullmatch(r"(.+)-(\d+)", path.parent.name)
        if name:
            runs[name[1]][int(name[2])] = [json.loads(line) for line in path.read_text().splitlines()]
    if not runs:
        raise SystemExit(f"{folder}: no run folders METHOD-SEED with a metrics.jsonl")
    return runs


def mean_of(line, field):
    """A metric of a line; the mean over the kinds of projection where there is one per kind."""
    value = line.get(field)
    if isinstance(value, dict):
        numbers = [value[kind] for kind in KINDS if value.get(kind) is not None]
        return statistics.fmean(numbers) if numbers else None
    return value


def curve(lines, field):
    return {line["step"]: value for line in lines if (value := mean_of(line, field)) is not None}


def spread(values, digits):
    if not values:
        return "-"
    text = f"{statistics.fmean(values):.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def table(runs, baseline):
    last = {method: {seed: curve(lines, "valid_loss") for seed, lines in seeds.items()} for method, seeds in runs.items()}
    last = {m: {seed: points[max(points)] for seed, points in seeds.items() if points} for m, seeds in last.items()}
    print("| method | validation loss | above " + baseline + " | effective rank, half-way | at the end | in the valley, at the end |")
    print("|---|---:|---:|---:|---:|---:|")
    for method in sorted(runs, key=lambda m: statistics.fmean(last[m].values()) if last[m] else float("inf")):
        above = [loss - last[baseline][seed] for seed, loss in last[method].items() if seed in last.get(baseline, {})]
        ranks = [curve(lines, "effective_rank") for lines in runs[method].values()]
        middle = [points[min(points, key=lambda step: abs(step - max(points) / 2))] for points in ranks if points]
        final = [points[max(points)] for points in ranks if points]
        valley = [curve(lines, "valley_share") for lines in runs[method].values()]
        valley = [points[max(points)] for points in valley if points]
        print(
            f"| {method} | {spread(list(last[method].values()), 4)} | "
            f"{'-' if method == baseline else spread(above, 4)} | {spread(middle, 1)} | {spread(final, 1)} | {spread(valley, 3)} |"
        )


def ticks(low, high, count=4):
    power = 10.0 ** int(f"{(high - low) / count:e}".split("e")[1])
    step = next(n * power for n in (1, 2, 5, 10) if n * power * count >= high - low)
    first = int(-(-low // step))
    return [n * step for n in range(first, first + 3 * count) if n * step <= high + 1e-9 * step]


def panel(out, left, title, curves, width=380, height=250):
    """One chart at `left`: mean curve and band per method."""
    top, bottom, margin = 30, 24, 46
    points = [value for seeds in curves.values() for seed in seeds for value in seed.values()]
    if not points:
        return
    end = max(step for seeds in curves.values() for seed in seeds for step in seed)
    # The first validations are off the scale of what follows.
    low, high = min(points), sorted(points)[int(0.97 * (len(points) - 1))]
    x = lambda step: left + margin + step / end * (width - margin - 12)
    y = lambda value: top + (high - min(value, high)) / (high - low or 1) * (height - top - bottom)
    out.append(f'<text x="{left + margin}" y="16" font-weight="bold">{escape(title)}</text>')
    for tick in ticks(low, high):
        out.append(f'<path d="M{left + margin} {y(tick):.1f}H{left + width - 12}" stroke="#8884"/>')
        out.append(f'<text x="{left + margin - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in ticks(0, end):
        out.append(f'<text x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>')
    for (method, seeds), color in zip(curves.items(), COLORS):
        steps = sorted(set.intersection(*(set(seed) for seed in seeds))) if seeds else []
        if not steps:
            continue
        across = {step: [seed[step] for seed in seeds] for step in steps}
        upper = " ".join(f"{x(s):.1f},{y(max(across[s])):.1f}" for s in steps)
        lower = " ".join(f"{x(s):.1f},{y(min(across[s])):.1f}" for s in reversed(steps))
        middle = " ".join(f"{x(s):.1f},{y(statistics.fmean(across[s])):.1f}" for s in steps)
        out.append(f'<polygon points="{upper} {lower}" fill="{color}" fill-opacity="0.15"/>')
        out.append(f'<polyline points="{middle}" fill="none" stroke="{color}" stroke-width="1.6"/>')


def figure(runs, path):
    fields = {
        "validation loss, nats per byte": "valid_loss",
        "effective rank of dL/dX": "effective_rank",
        "share of weights in the valley": "valley_share",
    }
    out = []
    for at, (title, field) in enumerate(fields.items()):
        panel(out, at * 390, title, {m: [curve(lines, field) for lines in s.values()] for m, s in runs.items()})
    for at, (method, color) in enumerate(zip(runs, COLORS)):
        out.append(f'<path d="M{46 + at * 150} 268h22" stroke="{color}" stroke-width="3"/>')
        out.append(f'<text x="{74 + at * 150}" y="272">{escape(method)}</text>')
    style = 'font-family="sans-serif" font-size="12" fill="#444"'
    body = "\n".join(out)
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1170 284" {style}>\n'
                    f'<rect width="1170" height="284" fill="#fff"/>\n{body}\n</svg>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--baseline", default="f32")
    args = parser.parse_args()
    runs = read(args.runs)
    table(runs, args.baseline)
    if args.figure:
        figure(runs, args.figure)


if __name__ == "__main__":
    main()
