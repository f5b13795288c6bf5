"""Tokens that the Rust trainer has put into its cache, in the windows and the order of the Rust trainer."""

import hashlib
import json
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from torch import Tensor

from .losses import IGNORED

# Magic, bytes per token, tokens (u64), source key, hash of the tokens.
_MAGIC, _HEADER = b"SHRYTOK1", 8 + 8 + 8 + 32 + 32


class DataError(Exception):
    """Data that cannot be used; the message names the file."""


class Dataset:
    """Tokens of a cache file, memory-mapped, in windows of `length`."""

    def __init__(self, tokens: np.ndarray, length: int, hash: str = "", separator: Optional[int] = None):
        if len(tokens) < 2:
            raise DataError("fewer than two tokens of text")
        self.tokens, self.length, self.hash, self.separator = tokens, length, hash, separator

    @staticmethod
    def open(run: Path, cache: Optional[str], part: str, length: int, verify: bool) -> Optional["Dataset"]:
        """The tokens that `data.json` of the run folder names for `part` ("train" or "valid"), if any.

        `verify` reads the whole file once and compares its hash; one process of a run need do that."""
        index = Path(run) / "data.json"
        try:
            entry = json.loads(index.read_text(encoding="utf-8"))[part]
            if entry is None:
                return None
            path = Path(cache if cache is not None else run / "data") / entry["file"]
            with open(path, "rb") as file:
                header = file.read(_HEADER)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{index}: {error!r}; make it with: sherry train CONFIG --run {run} --prepare") from error
        width, count = int.from_bytes(header[8:16], "little"), int.from_bytes(header[16:24], "little")
        whole = len(header) == _HEADER and width in (2, 4) and path.stat().st_size == _HEADER + width * count
        if header[:8] != _MAGIC or not whole or count != entry["tokens"]:
            raise DataError(f"{path}: damaged")
        tokens = np.memmap(path, dtype=f"<u{width}", mode="r", offset=_HEADER, shape=(count,))
        if verify:
            hash = hashlib.sha256()
            for start in range(0, count, 1 << 24):
                hash.update(tokens[start : start + (1 << 24)])
            if hash.digest() != header[56:88]:
                raise DataError(f"{path}: damaged")
        return Dataset(tokens, length, entry["hash"], entry.get("separator"))

    @property
    def windows(self) -> int:
        """Windows; the last may be padded."""
        return -(-(len(self.tokens) - 1) // self.length)

    def live(self, window: int) -> int:
        """Targets in a window that count."""
        return min(self.length, len(self.tokens) - 1 - window * self.length)

    def batch(self, windows: list[Optional[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs and the token after each, `[windows, length]`; padding, and windows that are None, do not count."""
        tokens = np.zeros((len(windows), self.length), np.int64)
        targets = np.full((len(windows), self.length), IGNORED, np.int64)
        for row, window in enumerate(windows):
            if window is not None:
                live, start = self.live(window), window * self.length
                tokens[row, :live] = self.tokens[start : start + live]
                targets[row, :live] = self.tokens[start + 1 : start + live + 1]
        return torch.from_numpy(tokens).to(device), torch.from_numpy(targets).to(device)


_GOLDEN = 0x9E37_79B9_7F4A_7C15
_MASK = (1 << 64) - 1


def random_bits(seed: int, stream: int, count: int) -> np.ndarray:
    """The first `count` numbers of stream `stream` of `seed` (SplitMix64), as in `crates/train/src/rng.rs`."""

    def first(state: int) -> int:
        return int(_mix(np.array([(state + _GOLDEN) & _MASK], np.uint64))[0])

    state = first(first(seed & _MASK) ^ (stream * _GOLDEN & _MASK))
    steps = np.arange(1, count + 1, dtype=np.uint64)
    return _mix(np.uint64(state) + steps * np.uint64(_GOLDEN))


def _mix(z: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return z ^ (z >> np.uint64(31))


def permutation(seed: int, windows: int, epoch: int) -> list[int]:
    """The order in which pass `epoch` over the data visits the windows (Fisher-Yates)."""
    bits = random_bits(seed, epoch + (1 << 32), max(windows - 1, 0))
    n = np.arange(windows, 1, -1, dtype=np.uint64)  # the draw for i is below i + 1
    high, low, half = bits >> np.uint64(32), bits & np.uint64(0xFFFF_FFFF), np.uint64(32)
    draws = ((high * n + (low * n >> half)) >> half).tolist()  # (bits * n) >> 64
    order = list(range(windows))
    for i, j in zip(range(windows - 1, 0, -1), draws, strict=True):
        order[i], order[j] = order[j], order[i]
    return order


class Order:
    """The order in which windows are visited: every pass over the data in its own. The cursor says it all."""

    def __init__(self, seed: int, windows: int, cursor: int):
        self.seed, self.windows, self.cursor = seed, windows, cursor
        self._epoch, self._permutation = -1, []

    def take(self, count: int) -> list[int]:
        """The next `count` windows."""
        return [self._next() for _ in range(count)]

    def _next(self) -> int:
        epoch, at = divmod(self.cursor, self.windows)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, permutation(self.seed, self.windows, epoch)
        self.cursor += 1
        return self._permutation[at]
