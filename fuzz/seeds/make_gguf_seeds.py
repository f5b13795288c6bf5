#!/usr/bin/env python3
"""Writes seeds/gguf/: small sound GGUF files, one per value type and per tensor type, for the fuzzer to start from."""

import struct
from pathlib import Path

FOLDER = Path(__file__).parent / "gguf"


def text(value):
    return struct.pack("<Q", len(value)) + value


def file(entries=(), tensors=(), version=3, alignment=32):
    """`entries`: (key, type, payload); `tensors`: (name, dims with the row length first, type, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    for key, ty, payload in entries:
        head += text(key) + struct.pack("<I", ty) + payload
    data = b""
    for name, dims, ty, size in tensors:
        data += bytes(-len(data) % alignment)
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, ty, len(data))
        data += bytes(size)
    return head + (bytes(-len(head) % alignment) + data if tensors else b"")


def main():
    FOLDER.mkdir(exist_ok=True)
    scalars = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    seeds = {"empty": file(), "version2": file([(b"k", 4, bytes(4))], [(b"w", [4], 0, 16)], version=2)}
    for ty, code in scalars.items():
        array = struct.pack(f"<IQ3{code}", ty, 3, 0, 1, 1)
        seeds[f"value{ty}"] = file([(b"k", ty, struct.pack(f"<{code}", 1)), (b"a", 9, array)])
    seeds["value8"] = file([(b"k", 8, text(b"v")), (b"a", 9, struct.pack("<IQ", 8, 2) + text(b"") + text(b"xy"))])
    seeds["alignment"] = file([(b"general.alignment", 4, struct.pack("<I", 8))], [(b"w", [3], 0, 12)], alignment=8)
    blocks = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
              11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 26: (1, 4), 27: (1, 8),
              30: (1, 2), 34: (256, 54), 35: (256, 66), 42: (256, 42), 43: (256, 42)}
    for ty, (values, size) in blocks.items():
        seeds[f"tensor{ty}"] = file((), [(b"a", [values, 2], ty, 2 * size), (b"b", [values], ty, size)])
    split = [(b"split.no", 2, bytes(2)), (b"split.count", 2, b"\2\0"), (b"split.tensors.count", 5, bytes(4))]
    seeds["split"] = file(split)
    for name, data in seeds.items():
        (FOLDER / f"{name}.gguf").write_bytes(data)


main()
