"""Table (Markdown, to stdout) and figure (SVG) of the models that run.sh made.

python3 figure.py OUT [--figure curve.svg]

OUT holds, for every budget, NAME.ppl.json (`sherry eval --ppl --json`) and NAME.inspect.json (`sherry inspect --json`), and
NAME.report.json where calibration wrote one. Both axes are logarithmic.
"""

import argparse
import json
import math
from pathlib import Path

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 50


def number(value, *names):
    """The first of `names` found anywhere in a document."""
    if isinstance(value, dict):
        for name in names:
            if isinstance(value.get(name), (int, float)):
                return value[name]
        value = list(value.values())
    if isinstance(value, list):
        found = (number(item, *names) for item in value)
        return next((item for item in found if item is not None), None)
    return None


def read(folder):
    """Rows of bits per linear weight, bytes of all tensors, perplexity and predicted divergence, by rising bits."""
    rows = []
    for path in folder.glob("*.ppl.json"):
        name = path.name.removesuffix(".ppl.json")
        sizes = json.loads((folder / f"{name}.inspect.json").read_text())["sizes"]
        report = folder / f"{name}.report.json"
        mixture = json.loads(report.read_text()).get("mixture") if report.exists() else None
        perplexity = number(json.loads(path.read_text()), "perplexity")
        if perplexity is None:
            raise SystemExit(f"{path}: no perplexity")
        predicted = mixture["loss"] if mixture else None
        rows.append((sizes["linear layers"]["bits_per_weight"], sizes["all"]["bytes"], perplexity, predicted))
    if not rows:
        raise SystemExit(f"{folder}: no NAME.ppl.json")
    return sorted(rows, key=lambda row: row[0])


def table(rows):
    print("| bits per linear weight | all tensors | predicted divergence | perplexity |")
    print("| ---: | ---: | ---: | ---: |")
    for bits, size, perplexity, predicted in rows:
        print(f"| {bits:.3f} | {size / 1e6:.1f} MB | {'' if predicted is None else f'{predicted:.3f}'} | {perplexity:.1f} |")


def ticks(low, high):
    """1, 2 and 5 times powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [d * 10**p for p in powers for d in (1, 2, 5) if low <= d * 10**p <= high]


def figure(rows, path):
    bits, perplexities = [row[0] for row in rows], [row[2] for row in rows]
    low_x, high_x = min(bits) / 1.1, max(bits) * 1.1
    low_y, high_y = min(perplexities) / 1.3, max(perplexities) * 1.3
    share = lambda value, low, high: math.log(value / low) / math.log(high / low)
    x = lambda value: LEFT + share(value, low_x, high_x) * (WIDTH - LEFT - RIGHT)
    y = lambda value: HEIGHT - BOTTOM - share(value, low_y, high_y) * (HEIGHT - TOP - BOTTOM)
    text = lambda at_x, at_y, words, anchor: f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}">{words}</text>'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        "<title>Perplexity over bits per linear weight</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for value in [1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8]:
        if low_x <= value <= high_x:
            parts.append(f'<path d="M{x(value):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#dddddd"/>')
            parts.append(text(x(value), HEIGHT - BOTTOM + 18, f"{value:g}", "middle"))
    for value in ticks(low_y, high_y):
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        parts.append(text(LEFT - 8, y(value) + 4, f"{value:g}", "end"))
    line = " ".join(f"{x(bit):.1f},{y(perplexity):.1f}" for bit, perplexity in zip(bits, perplexities))
    parts.append(f'<polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/>')
    for bit, perplexity in zip(bits, perplexities):
        words = f"{bit:.2f} bits: {perplexity:.1f}"
        parts.append(f'<circle cx="{x(bit):.1f}" cy="{y(perplexity):.1f}" r="4" fill="#0072b2"><title>{words}</title></circle>')
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "bits per weight of the linear layers", "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<g transform="rotate(-90 16 {middle})">{text(16, middle, "perplexity", "middle")}</g></svg>')
    path.write_text("\n".join(parts) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    rows = read(args.out)
    table(rows)
    if args.figure:
        figure(rows, args.figure)


if __name__ == "__main__":
    main()
