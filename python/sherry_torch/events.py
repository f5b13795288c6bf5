"""Metrics as TensorBoard reads them; the event files of `crates/train/src/tensorboard.rs`."""

import struct
import time
from pathlib import Path
from typing import Any, BinaryIO, Optional

from .metrics import BINS, REACH

SINGLE = {
    "loss": "loss/train", "divergence": "loss/divergence", "valid_loss": "loss/valid",
    "valid_loss_with_lambda": "loss/valid_with_lambda", "lr": "train/learning_rate", "lambda": "train/lambda",
    "grad_norm": "train/gradient_norm", "tokens_per_second": "train/tokens_per_second", "tokens": "train/tokens",
    "flip_rate": "weights/flip_rate",
}  # fmt: skip
PER_KIND = {"effective_rank": "effective_rank", "valley_share": "valley_share", "grad_norms": "gradient_norm"}


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32 with the Castagnoli polynomial."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    """A record of the TensorFlow format."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _variable(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def _integer(field: int, value: int) -> bytes:
    return bytes([field << 3]) + _variable(value)


def _double(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _variable(len(value)) + value


def _single(tag: str, value: float) -> bytes:
    return _bytes(1, _bytes(1, tag.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", value))


def _histogram(tag: str, shares: list[float]) -> bytes:
    """The shares of the bins over -REACH..REACH, as so many of 100,000 weights."""
    width = 2 * REACH / BINS
    middles = [(bin + 0.5) * width - REACH for bin in range(len(shares))]
    sums = [sum(1e5 * share * middle**power for share, middle in zip(shares, middles, strict=True)) for power in range(3)]
    out = b"".join(_double(field + 1, value) for field, value in enumerate([-REACH, REACH, *sums]))
    limits = struct.pack(f"<{len(shares)}d", *((bin + 1) * width - REACH for bin in range(len(shares))))
    counts = struct.pack(f"<{len(shares)}d", *(1e5 * share for share in shares))
    return _bytes(1, _bytes(1, tag.encode()) + _bytes(5, out + _bytes(6, limits) + _bytes(7, counts)))


def summary(line: dict[str, Any]) -> bytes:
    """A `Summary` with a value for each number of a metrics line."""
    out = [_single(tag, line[key]) for key, tag in SINGLE.items() if line.get(key) is not None]
    for key, group in PER_KIND.items():
        out += [_single(f"{group}/{kind}", value) for kind, value in (line.get(key) or {}).items()]
    out += [_histogram(f"weight_over_alpha/{kind}", shares) for kind, shares in (line.get("histogram") or {}).items()]
    return b"".join(out)


class Events:
    """The event file of one start of a run that goes on after `step`, made when there is something to write."""

    def __init__(self, folder: Path, step: int):
        self.folder, self.step = folder, step
        self.file: Optional[BinaryIO] = None

    def write(self, line: dict[str, Any]) -> None:
        """Appends what a metrics line says."""
        now = time.time_ns()

        def event(step: int, what: bytes) -> bytes:
            return record(_double(1, now / 1e9) + _integer(2, step) + what)

        data = b""
        if self.file is None:
            seconds, nanoseconds = divmod(now, 10**9)
            self.file = open(self.folder / f"events.out.tfevents.{seconds:010}.{nanoseconds:09}.sherry", "xb")
            data = event(0, _bytes(3, b"brain.Event:2"))
            if self.step > 0:
                # A session log with status START: what earlier files have from this step on counts no longer.
                data += event(self.step + 1, _bytes(7, _integer(1, 1)))
        self.file.write(data + event(line["step"], _bytes(5, summary(line))))
        self.file.flush()
