"""Learning rate and Arenas strength as pure functions of the optimizer step (the first is 0)."""

import math

from .config import ArenasConfig, Config, OptimizerConfig


def _share(steps: int, share: float) -> int:
    return min(math.floor(steps * share + 0.5), steps)


def rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate: linear warm-up, then constant, half a cosine, or linear over the last `decay` share (wsd)."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    share = 1.0
    if config.schedule == "cosine":
        done = (step - config.warmup) / max(steps - config.warmup, 1)
        share = 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
    elif config.schedule == "wsd":
        start = steps - _share(steps, config.decay)
        share = 1.0 - max(step - start, 0) / max(steps - start, 1)
    return config.min_lr + (config.lr - config.min_lr) * max(share, 0.0)


def arenas(config: ArenasConfig, step: int, steps: int) -> float:
    """Lambda: linear warm-up, then down to exactly zero in the tail, of at least one step."""
    if config.shape == "off":
        return 0.0
    end = steps - min(max(_share(steps, config.tail), 1), steps)
    top = min(_share(steps, config.warmup), end)
    if step >= end:
        return 0.0
    if step < top:
        return config.lambda_max * step / top
    t = (step - top) / (end - top)
    if config.shape == "linear":
        fall = 1.0 - t
    elif config.shape == "cosine":
        fall = 0.5 * (1.0 + math.cos(math.pi * t))
    else:
        fall = (math.exp(-5.0 * t) - math.exp(-5.0)) / (1.0 - math.exp(-5.0))
    return config.lambda_max * fall


def strength(config: Config, step: int) -> float:
    """Lambda of a run; none for full precision."""
    return 0.0 if config.quantizer.method == "none" else arenas(config.arenas, step, config.steps)
