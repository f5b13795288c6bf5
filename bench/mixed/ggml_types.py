"""The types of llama.cpp on one model, with an importance matrix: perplexity over bits, beside the models of run.sh.

    sherry calibrate MODEL unused --data TEXT --tokens 8192 --sweeps 0 --column-fits 0 --tune-tokens 0 --importance importance.json
    sherry convert MODEL floats --dtype f32
    python3 ggml_types.py floats OUT libggml.so importance.json TEXT-TO-MEASURE-ON [--types q2_k,iq2_xxs]

libggml.so: that of llama.cpp or ik_llama.cpp, as their packages for Python bring it (`ik_llama_cpp/lib/libggml.so` in a wheel of
ik-llama-cpp-python). Every linear layer is quantized by its `ggml_quantize_chunk` and turned back into floats, which `sherry eval`
measures. Where rows are no multiple of 256, rows are joined until they are, importance repeated: llama-quantize itself would
fall back to larger types there. Needs numpy. Floats of finished types are deleted.
"""

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

# Number and name of the function that decodes it, in every version of ggml.
TYPES = {
    "q4_0": (2, "q4_0"), "q2_k": (10, "q2_K"), "iq2_xxs": (16, "iq2_xxs"), "iq2_xs": (17, "iq2_xs"), "iq3_xxs": (18, "iq3_xxs"),
    "iq1_s": (19, "iq1_s"), "iq2_s": (22, "iq2_s"), "iq1_m": (29, "iq1_m"),
}
FLOATS, BYTES = ctypes.POINTER(ctypes.c_float), ctypes.POINTER(ctypes.c_uint8)


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def load(path):
    """The library, its tables of half precision filled."""
    ggml = ctypes.CDLL(path)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_init.argtypes, ggml.ggml_init.restype = [InitParams], ctypes.c_void_p
    ggml.ggml_init(InitParams(1 << 20, None, True))
    return ggml


def pointer(array, kind):
    return array.ctypes.data_as(kind)


def there_and_back(ggml, name, weights, importance):
    """`weights`, rows x columns, as the type holds them; and the bytes that takes."""
    number, decoder = TYPES[name]
    rows, columns = weights.shape
    join = 1
    while columns * join % 256:
        join *= 2
    if rows % join:
        sys.exit(f"{rows} rows of {columns} weights make no blocks of 256")
    weights = np.ascontiguousarray(weights.reshape(rows // join, columns * join))
    importance = np.ascontiguousarray(np.tile(importance, join), dtype=np.float32)
    packed = np.zeros(weights.size * 8, dtype=np.uint8)
    size = ggml.ggml_quantize_chunk(number, pointer(weights, FLOATS), pointer(packed, BYTES), ctypes.c_int64(0),
                                    ctypes.c_int64(weights.shape[0]), ctypes.c_int64(weights.shape[1]), pointer(importance, FLOATS))
    back = np.empty_like(weights)
    getattr(ggml, f"dequantize_row_{decoder}")(pointer(packed, BYTES), pointer(back, FLOATS), ctypes.c_int64(back.size))
    return back.reshape(rows, columns), size


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("floats", type=Path, help="folder with model.safetensors in f32")
    parser.add_argument("out", type=Path)
    parser.add_argument("libggml")
    parser.add_argument("importance", type=Path)
    parser.add_argument("text")
    parser.add_argument("--types", default="q2_k,iq2_s,iq2_xs,iq2_xxs,iq1_m,iq1_s")
    args = parser.parse_args()
    sherry = os.environ.get("SHERRY", "sherry")
    ggml = load(args.libggml)
    importance = json.loads(args.importance.read_text())
    file = args.floats / "model.safetensors"
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    args.out.mkdir(parents=True, exist_ok=True)

    print("| type | bits per linear weight | perplexity |\n| --- | ---: | ---: |")
    for name in args.types.split(","):
        result = args.out / f"{name}.ppl.json"
        bits_file = args.out / f"{name}.bits"
        if not result.exists():
            folder = args.out / name
            shutil.copytree(args.floats, folder, dirs_exist_ok=True)
            data = np.memmap(folder / "model.safetensors", dtype=np.uint8, mode="r+", offset=8 + length)
            bits, count = 0, 0
            for tensor, of_tensor in importance.items():
                begin, end = header[tensor]["data_offsets"]
                weights = data[begin:end].view(np.float32).reshape(header[tensor]["shape"]).copy()
                back, size = there_and_back(ggml, name, weights, np.asarray(of_tensor, dtype=np.float32))
                data[begin:end] = back.reshape(-1).view(np.uint8)
                bits, count = bits + 8 * size, count + weights.size
            data.flush()
            bits_file.write_text(str(bits / count))
            answer = subprocess.run([sherry, "eval", folder, "--ppl", args.text, "--ppl-mode", "disjoint", "--ppl-window", "512",
                                     "--json"], check=True, stdout=subprocess.PIPE).stdout
            result.write_bytes(answer)
            shutil.rmtree(folder)
        perplexity = json.loads(result.read_text())["sherry"]["perplexity"][0]["perplexity"]
        print(f"| {name} | {float(bits_file.read_text()):.2f} | {perplexity:.1f} |", flush=True)


if __name__ == "__main__":
    main()
