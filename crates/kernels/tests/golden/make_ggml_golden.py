#!/usr/bin/env python3
"""Writes the golden files of the ggml block formats: tests/ggml_golden.rs reads them.

    pip install numpy gguf && python3 crates/kernels/tests/golden/make_ggml_golden.py [libggml-base.so]

For each type `<type>.bin` holds a few blocks of random bytes with finite f16 scales (normal, negative, subnormal, zero)
and then their values as little-endian f32, decoded by the `gguf` package (STQ1_0, Q1_0, Q2_0, PQ2_0, PTQ1_0 and SQ3_0, which
it does not decode: by the numpy decoders below, written from FORMAT.md). `source.bin` is f32 input for quantizers,
`<type>.quantized.bin` what gguf makes of it; Q1_0 and Q2_0, which it does not encode, what ggml makes of it, where a
shared library of ggml is given. Everything is seeded: running this again gives the same files.
"""

import ctypes
import sys
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


def f16(blocks, at):
    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)


def decode_q1_0(blocks):
    """18 bytes: f16 scale, 16 of signs, the first weight in the lowest bit; 1 is +."""
    signs = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").astype(np.float32)
    return f16(blocks, 0) * (2 * signs - 1)


def decode_q2_0(blocks):
    """f16 scale, then four weights a byte, the first in the lowest bits, each plus 1."""
    codes = np.stack([blocks[:, 2:] >> (2 * j) & 3 for j in range(4)], axis=2)
    return f16(blocks, 0) * (codes.reshape(len(blocks), -1).astype(np.float32) - 1)


def decode_ptq1_0(blocks):
    """28 bytes: 16, 8 and 2 bytes of trits, digit after digit, f16 scale. A byte is a fraction of 256."""
    parts = []
    for first, end, digits in [(0, 16, 5), (16, 24, 5), (24, 26, 4)]:
        fraction = blocks[:, first:end].astype(np.uint32)
        for _ in range(digits):
            fraction *= 3
            parts.append((fraction >> 8).astype(np.float32) - 1)
            fraction &= 255
    return f16(blocks, 26) * np.concatenate(parts, axis=1)


def decode_sq3_0(blocks):
    """26 bytes: f16 scale, 16 bytes of the two low bits of 64 codes, 8 of their high bits; code 4 is 0."""
    low = np.stack([blocks[:, 2:18] >> (2 * j) & 3 for j in range(4)], axis=2).reshape(len(blocks), -1)
    high = np.unpackbits(blocks[:, 18:], axis=1, bitorder="little")
    return f16(blocks, 0) * ((low + 4 * high).astype(np.float32) - 4)


# Values and bytes of a block, where its scale lies, decoder.
OWN = {
    "q1_0": (128, 18, 0, decode_q1_0),
    "q2_0": (64, 18, 0, decode_q2_0),
    "pq2_0": (128, 34, 0, decode_q2_0),
    "ptq1_0": (128, 28, 26, decode_ptq1_0),
    "sq3_0": (64, 26, 0, decode_sq3_0),
}


def ggml_quantize(library, type_id, source, size):
    ggml = ctypes.CDLL(library)
    out = np.zeros(size, np.uint8)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (source, out)]
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    rows, cols = (ctypes.c_int64(n) for n in source.shape)
    written = ggml.ggml_quantize_chunk(type_id, *pointers, ctypes.c_int64(0), rows, cols, None)
    assert written == size, (written, size)
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
        own = np.random.default_rng(20261107)
        for name, (length, size, scale, decode) in OWN.items():
            blocks = random_blocks(own, 16, size, [scale])
            write(f"{name}.bin", blocks, decode(blocks))

    source = rng.normal(0, 0.02, (4, 256)).astype(np.float32)
    source[1] = 0.1 + 2 * np.cos(np.arange(256, dtype=np.float32))
    source[2, :32] = 0
    source[2, 32:64] = 1e-9
    source[3, ::7] = 0
    write("source.bin", source)
    for ty in [T.Q8_0, T.Q4_0, T.TQ1_0, T.TQ2_0, T.BF16]:
        write(f"{ty.name.lower()}.quantized.bin", quantize(source, ty))
    if len(sys.argv) > 1:
        for name, type_id in [("q1_0", 41), ("q2_0", 42)]:
            size = source.size // OWN[name][0] * OWN[name][1]
            write(f"{name}.quantized.bin", ggml_quantize(sys.argv[1], type_id, source, size))


main()
