"""What training looks like from inside, in the lines of the Rust trainer's metrics file."""

import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import write_file
from .model import KINDS, Decoder
from .parallel import whole

# Tokens whose gradients are looked at.
SAMPLE = 128

# Histograms of `w / alpha` have so many bins from -REACH to REACH, the outer ones open.
BINS, REACH = 24, 3.0


def effective_rank(x: Tensor) -> float:
    """`exp(-sum p ln p)`, `p` the singular values over their sum (Roy & Vetterli 2007); NaN for a zero matrix."""
    x = x.double()
    values = torch.linalg.svdvals(x / x.abs().max())
    p = values / values.sum()
    return torch.where(p > 0, -p * p.log(), 0.0).sum().exp().item() if bool(values.isfinite().all()) else math.nan


class RankProbe:
    """Collects the effective rank of dL/dX of every projection during a backward pass, from a sample of the tokens."""

    def __init__(self, model: Decoder):
        self.model, self._ranks = model, defaultdict(list)

    def __enter__(self) -> "RankProbe":
        for block in self.model.model.layers:
            for kind, linear in block.projections().items():
                linear.probe = lambda dx, kind=kind: self._see(kind, dx)
        return self

    def __exit__(self, *_: Any) -> None:
        for block in self.model.model.layers:
            for linear in block.projections().values():
                linear.probe = None

    def _see(self, kind: str, dx: Tensor) -> None:
        self._ranks[kind].append(effective_rank(dx[:: max(-(-dx.shape[0] // SAMPLE), 1)]))

    def means(self) -> dict[str, float]:
        """Mean over the layers, per kind of projection."""
        return {kind: sum(ranks) / len(ranks) for kind, ranks in sorted(self._ranks.items())}


@torch.no_grad()
def codes(model: Decoder, keep: bool) -> tuple[list[Tensor], dict[str, float], dict[str, list[float]]]:
    """The codes of all projections as signs, and per kind the share of weights with `|w| < alpha / 2` and the shares by
    `w / alpha`.

    Every process must call it (sharded weights are gathered one by one); only those with `keep` get results."""
    found, valley, bins = [], defaultdict(int), defaultdict(int)
    quantizer = model.quantizer
    if quantizer.method == "none":
        return [], {}, {}
    for block in model.model.layers:
        for kind, linear in block.projections().items():
            w = whole(linear.weight)
            learned = [None if p is None else whole(p) for p in (linear.weight_scale, linear.weight_shift)]
            if not keep:
                continue
            q = quantizer.project(w, *learned)
            unit = quantizer.unit(*w.shape)
            alpha, w = q.view(-1, unit).abs().amax(1, keepdim=True), w.reshape(-1, unit)
            valley[kind] += int((w.abs() < alpha / 2).sum())
            scale = torch.where(alpha > 0, BINS / (2 * REACH) / alpha, 0.0)
            bin = (w * scale + BINS / 2).floor().clamp(0, BINS - 1).long()
            bins[kind] += bin.flatten().bincount(minlength=BINS).cpu()
            found.append(q.sign().to("cpu", torch.int8))
    shares = {kind: [round(n / int(counts.sum()), 5) for n in counts.tolist()] for kind, counts in sorted(bins.items())}
    return found, {kind: inside / int(bins[kind].sum()) for kind, inside in sorted(valley.items())}, shares


def gradient_norms(model: Decoder) -> dict[str, float]:
    """Norm of the gradients of each kind of projection, over all layers; every process must call it."""
    squares: dict[str, Tensor] = {}
    for block in model.model.layers:
        for kind, linear in block.projections().items():
            square = whole(linear.weight.grad.square().sum()).double()
            squares[kind] = squares.get(kind, 0.0) + square
    return {kind: math.sqrt(square.item()) for kind, square in sorted(squares.items())}


class MetricsFile:
    """One JSON object per line. Lines after the resumed step, of a run that was cut short, go."""

    def __init__(self, path: Path, step: int):
        self.path = path
        try:
            old = path.read_bytes()
        except FileNotFoundError:
            old = b""
        kept = b"".join(line for line in old.splitlines(keepends=True) if step > 0 and self._belongs(line, step))
        if kept != old:
            write_file(path, kept)

    @staticmethod
    def _belongs(line: bytes, step: int) -> bool:
        try:
            return line.endswith(b"\n") and json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):
            return False

    def write(self, line: dict[str, Any]) -> None:
        """Appends a line; fields without a value, and numbers that are none, are left out or null as in Rust."""
        fields = {key: _finite(value) for key, value in line.items() if value is not None and value != {}}
        with open(self.path, "ab") as file:
            file.write(json.dumps(fields, separators=(",", ":")).encode() + b"\n")
            os.fsync(file.fileno())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def describe(line: dict[str, Any], steps: int, step_tokens: int) -> str:
    """A metrics line for people."""
    parts = [f"step {line['step']}/{steps}"]
    for name, key, digits in [
        ("loss", "loss", 4), ("divergence", "divergence", 4), ("valid", "valid_loss", 4),
        ("valid with lambda", "valid_loss_with_lambda", 4), ("lambda", "lambda", 3), ("grad", "grad_norm", 3),
        ("flips", "flip_rate", 5),
    ]:  # fmt: skip
        if line.get(key) is not None:
            parts.append(f"{name} {line[key]:.{digits}f}")
    if line.get("lr") is not None:
        speed = line["tokens_per_second"]
        left = int((steps - line["step"]) * step_tokens / max(speed, 1e-9))
        parts.append(f"lr {line['lr']:.2e}  {speed:.0f} tok/s  {left // 60}:{left % 60:02} left")
    return "  ".join(parts)
