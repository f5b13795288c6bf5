"""The safetensors format: an 8-byte length, a JSON header, then the tensors. Streams in both directions."""

import hashlib
import json
import math
import mmap
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .model import ModelError

_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Reader:
    """Tensors of a file, mapped; nothing is copied until a tensor is used."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with open(path, "rb") as file:
                # A private mapping: PyTorch wants writable memory, the file stays as it is.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            size = int.from_bytes(self._map[:8], "little")
            self._entries = json.loads(self._map[8 : 8 + size])
            self._start = 8 + size
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read: {error}") from error
        self._entries.pop("__metadata__", None)

    def names(self) -> list[str]:
        return list(self._entries)

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor `name`, which must have this shape."""
        entry = self._entries.get(name)
        if entry is None:
            raise ModelError(f"{self.path}: tensor '{name}': missing")
        dtype, (start, end) = _TYPES.get(entry["dtype"]), entry["data_offsets"]
        if dtype is None or tuple(entry["shape"]) != tuple(shape):
            raise ModelError(f"{self.path}: tensor '{name}': is {entry['dtype']} {entry['shape']}, expected {list(shape)}")
        count = math.prod(shape)
        if start < 0 or end - start != count * dtype.itemsize or self._start + end > len(self._map):
            raise ModelError(f"{self.path}: tensor '{name}': does not fit the file")
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=self._start + start).view(shape)


class Writer:
    """Writes float32 tensors in the order of the plan, keeping size and SHA-256 of the file."""

    def __init__(self, file: BinaryIO, plan: list[tuple[str, tuple[int, ...]]]):
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for name, shape in plan:
            start, end = end, end + 4 * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 64 + 56)  # data starts at a multiple of 64
        self.file, self.bytes, self.hash = file, 0, hashlib.sha256()
        self._write(len(text).to_bytes(8, "little") + text)

    def _write(self, data: "bytes | memoryview") -> None:
        self.file.write(data)
        self.hash.update(data)
        self.bytes += len(data)

    def write(self, tensor: Tensor) -> None:
        """The next tensor of the plan, or the next part of it."""
        self._write(memoryview(tensor.detach().to("cpu", torch.float32).contiguous().flatten().numpy()).cast("B"))
