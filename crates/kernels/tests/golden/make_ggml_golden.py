#!/usr/bin/env python3
"""Writes the golden files of the ggml block formats: tests/ggml_golden.rs reads them.

    pip install numpy gguf && python3 crates/kernels/tests/golden/make_ggml_golden.py

For each type `<type>.bin` holds a few blocks of random bytes with finite f16 scales (normal, negative, subnormal, zero)
and then their values as little-endian f32, decoded by the `gguf` package (STQ1_0, which it does not know: by the numpy
decoder below, written from FORMAT.md). `source.bin` is f32 input for quantizers, `<type>.quantized.bin` what gguf makes
of it. Everything is seeded: running this again gives the same files.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

FOLDER = Path(__file__).parent
# Where the f16 scales of a block lie.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.IQ4_NL: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.TQ1_0: [52], T.TQ2_0: [64],
}
SPECIAL = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF], np.uint16)


def random_blocks(rng, count, size, scales):
    blocks = rng.integers(0, 256, (count, size), np.uint8)
    for at in scales:
        values = rng.normal(0, 0.05, count).astype(np.float16).view(np.uint16)
        values[: len(SPECIAL)] = SPECIAL[:count]
        blocks[:, at : at + 2] = values.reshape(-1, 1).view(np.uint8)
    return blocks


def decode_stq1_0(blocks):
    """42 bytes: 32 of nibbles, 8 of sign bits, f16 scale; quads of stride 16 inside each 64 values."""
    out = np.zeros((len(blocks), 256), np.float32)
    for b, block in enumerate(blocks):
        d = np.float32(block[40:42].view(np.float16)[0])
        for quad in range(64):
            nibble = (int(block[quad // 2]) >> (4 if quad % 2 else 0)) & 15
            first = -1 if (int(block[32 + quad // 8]) >> (quad % 8)) & 1 else 1
            kept = [first, -first if nibble & 1 else first, -first if nibble & 2 else first]
            kept.insert(nibble >> 2, 0)
            for lane, value in enumerate(kept):
                out[b, 64 * (quad // 16) + quad % 16 + 16 * lane] = d * np.float32(value)
    return out


def write(name, *arrays):
    (FOLDER / name).write_bytes(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))


def main():
    rng = np.random.default_rng(20260107)
    with np.errstate(over="ignore"):
        for ty, scales in SCALES.items():
            length, size = GGML_QUANT_SIZES[ty]
            blocks = random_blocks(rng, 10 if length == 256 else 32, size, scales)
            write(f"{ty.name.lower()}.bin", blocks, dequantize(blocks, ty))
        blocks = random_blocks(rng, 10, 42, [40])
        write("stq1_0.bin", blocks, decode_stq1_0(blocks))

    source = rng.normal(0, 0.02, (4, 256)).astype(np.float32)
    source[1] = 0.1 + 2 * np.cos(np.arange(256, dtype=np.float32))
    source[2, :32] = 0
    source[2, 32:64] = 1e-9
    source[3, ::7] = 0
    write("source.bin", source)
    for ty in [T.Q8_0, T.Q4_0, T.TQ1_0, T.TQ2_0, T.BF16]:
        write(f"{ty.name.lower()}.quantized.bin", quantize(source, ty))


main()
