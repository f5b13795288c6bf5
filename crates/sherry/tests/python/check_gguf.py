#!/usr/bin/env python3
"""Reads a GGUF file with the `gguf` package and compares every tensor, decoded, with a file of f32 values, bit for bit.

    check_gguf.py MODEL.gguf VALUES.f32

Prints metadata and tensors as JSON. The package (as of 0.19) does not know STQ1_0, so its table of types is taught ids
42 and 43 with their block of 42 bytes per 256 values; the container is then read by the package alone, and STQ1_0 data
by the decoder below, which is written from FORMAT.md and shares nothing with the Rust one.
"""

import json
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize


def teach(value):
    """Makes type id `value` STQ1_0."""
    member = int.__new__(GGMLQuantizationType, value)
    member._name_, member._value_ = "STQ1_0", value
    GGMLQuantizationType._value2member_map_[value] = member
    GGML_QUANT_SIZES[member] = (256, 42)


def decode_stq1_0(data):
    blocks = np.frombuffer(data, np.uint8).reshape(-1, 42)
    nibbles = np.empty((len(blocks), 64), np.uint8)
    nibbles[:, 0::2] = blocks[:, :32] & 15
    nibbles[:, 1::2] = blocks[:, :32] >> 4
    first = 1 - 2 * np.unpackbits(blocks[:, 32:40], axis=1, bitorder="little").astype(np.int8)
    second = np.where(nibbles & 1, -first, first)
    third = np.where(nibbles & 2, -first, first)
    zero = nibbles >> 2
    lanes = np.zeros((len(blocks), 64, 4), np.int8)
    for lane in range(4):
        kept_before = lane - (zero < lane)
        sign = np.choose(np.clip(kept_before, 0, 2), [first, second, third])
        lanes[:, :, lane] = np.where(zero == lane, 0, sign)
    # Quad 16 c + i, lane p is weight 64 c + i + 16 p.
    weights = lanes.reshape(-1, 4, 16, 4).transpose(0, 1, 3, 2).reshape(-1, 256)
    return blocks[:, 40:42].copy().view(np.float16).astype(np.float32) * weights.astype(np.float32)


def main():
    for value in (42, 43):
        if value not in GGMLQuantizationType._value2member_map_:
            teach(value)
    reader = GGUFReader(sys.argv[1])
    expected = np.fromfile(sys.argv[2], np.uint32)
    at = 0
    for tensor in reader.tensors:
        if tensor.tensor_type.name == "STQ1_0":
            values = decode_stq1_0(tensor.data.tobytes())
        else:
            values = dequantize(tensor.data, tensor.tensor_type)
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32).ravel()
        same = bits == expected[at : at + len(bits)]
        assert len(same) == tensor.n_elements and same.all(), f"{tensor.name}: first difference at {same.argmin()}"
        at += len(bits)
    assert at == len(expected)

    metadata = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    # The package lists dimensions row length first.
    tensors = [[t.name, t.tensor_type.name, [int(d) for d in t.shape[::-1]]] for t in reader.tensors]
    print(json.dumps({"metadata": metadata, "tensors": tensors}))


main()
