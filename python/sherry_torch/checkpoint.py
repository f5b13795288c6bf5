"""Checkpoints that survive crashes: the folders of the Rust trainer, which can go on from them, and from whose it can.

A checkpoint is written as `checkpoint-STEP.tmp`, every file synced, last a manifest with size and SHA-256 of each; then
the folder gets its name by renaming, then `latest` points to it, then old ones go. A folder whose manifest does not
verify is not a checkpoint. Weights are gathered one tensor at a time, so no process ever holds the whole model.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional

import torch
from torch import Tensor

from .model import Decoder, ModelError, layout
from .optim import MOMENTS, moment, set_moments
from .parallel import World, like, whole
from .safetensors import Reader, Writer

MANIFEST, STATE, WEIGHTS, OPTIMIZER, PREFIX = (
    "manifest.json", "state.json", "model.safetensors", "optimizer.safetensors", "checkpoint-",
)  # fmt: skip


class CheckpointError(Exception):
    """A checkpoint or run folder that cannot be used; the message names it."""


@dataclass
class State:
    """Everything besides weights and moments that the next step depends on."""

    step: int
    cursor: int
    tokens: int
    lam: float
    best: Optional[tuple[float, int]]
    data: str
    config: dict[str, Any]
    validated: Optional[int] = None
    valid: Optional[str] = None
    teacher: Optional[str] = None

    @staticmethod
    def read(folder: Path) -> "State":
        path = folder / STATE
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            fields["lam"] = fields.pop("lambda")
            needed = {f.name: fields[f.name] for f in dataclasses.fields(State) if f.default is dataclasses.MISSING}
            # Runs of earlier versions do not have them.
            more = {name: fields.get(name) for name in ("validated", "valid", "teacher")}
            if fields.get("extensions"):
                raise CheckpointError(f"{path}: the run was extended by `sherry train --extend`, which alone goes on with it")
            if needed["best"] and needed["best"][0] is None:
                needed["best"] = None  # a loss that is not a number
            return State(**needed, **more)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path}: {error!r}") from error

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        fields["lambda"] = fields.pop("lam")
        return fields


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _file(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """A file that appears whole."""
    staged = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with open(staged, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)
    _sync(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Replaces a file; a crash leaves the old or the new one."""
    _file(path, lambda file: file.write(data))


def _hash(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


class RunFolder:
    """The run folder, held by the first process until it ends, however it ends."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._lock = open(path / "lock", "ab")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(f"{path}: another process is training there") from error
        except OSError as error:
            raise CheckpointError(f"{path}: {error}; make it with: sherry train CONFIG --run {path} --prepare") from error
        self._sweep()

    def _sweep(self) -> None:
        """Removes what a killed process left behind."""
        for path in self.path.iterdir():
            if path.name.startswith(PREFIX) and path.name.endswith((".tmp", ".old")):
                shutil.rmtree(path)
            elif path.name.startswith(".") and ".tmp-" in path.name:
                path.unlink()

    def prune(self, keep: int, best: Optional[int]) -> None:
        """Removes all but the newest `keep` checkpoints and that of step `best`."""
        for step, path in checkpoints(self.path)[keep:]:
            if step != best:
                # Renamed first: a half-removed folder must not look like a checkpoint.
                path.rename(path.with_suffix(".old"))
        self._sweep()

    def staged(self, step: int) -> Path:
        """An empty folder to write the checkpoint of `step` into."""
        path = self.path / f"{PREFIX}{step:08}.tmp"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def publish(self, staged: Path, step: int) -> Path:
        """Gives a finished checkpoint its name."""
        target = staged.with_suffix("")
        if target.exists():
            # Only a damaged one can be here: a good one would have been resumed from.
            shutil.rmtree(target)
        staged.rename(target)
        _sync(self.path)
        write_file(self.path / "latest", target.name.encode())
        return target


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Checkpoint folders by step, the newest first; not verified."""
    found = [(p.name.removeprefix(PREFIX), p) for p in run.iterdir() if p.name.startswith(PREFIX)]
    return sorted(((int(step), path) for step, path in found if step.isdecimal()), reverse=True)


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, after checking every file against it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name in (WEIGHTS, OPTIMIZER, STATE):
            manifest["files"][name]
        for name, entry in manifest["files"].items():
            if Path(name).name != name or _hash(folder / name) != entry:
                raise CheckpointError(f"{folder / name}: does not match the manifest")
        return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: {error!r}") from error


def newest(run: Path, note: Callable[[str], None]) -> Path:
    """The newest checkpoint that verifies; damaged ones are reported and passed over."""
    for _, path in checkpoints(run):
        try:
            verify(path)
            return path
        except CheckpointError as error:
            note(f"{error}: falling back to the checkpoint before it")
    raise CheckpointError(f"{run}: holds no good checkpoint; begin with: sherry train CONFIG --run {run} --prepare")


def companions(folder: Path) -> dict[str, bytes]:
    """Files that go with every checkpoint of a run: config.json, tokenizer."""
    names = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    return {name: (folder / name).read_bytes() for name in names if name not in (WEIGHTS, OPTIMIZER, STATE)}


def save(
    folder: Optional[RunFolder], model: Decoder, optimizer: torch.optim.AdamW, state: State, files: dict[str, bytes], world: World
) -> None:
    """Saves a checkpoint. Every process takes part in gathering, the one with the `folder` writes."""
    params = dict(model.named_parameters())
    names = layout(model.arch, model.quantizer)
    problem, staged, entries = None, None, {}
    try:
        staged = folder.staged(state.step) if folder else None
    except OSError as error:
        problem = f"{folder.path}: {error}"

    def weights() -> "list[tuple[str, tuple[int, ...]]]":
        return [(name, tuple(params[name].shape)) for name in names]

    def flat(which: str) -> tuple[str, tuple[int, ...]]:
        return which, (sum(params[name].numel() for name in names),)

    def gather(name: str, which: Optional[str]) -> Tensor:
        p = params[name]
        if which is None:
            return whole(p.detach())
        value = moment(optimizer, p, which)
        return torch.zeros(p.shape) if value is None else whole(value)

    for file_name, plan, parts in [
        (WEIGHTS, weights(), [(name, None) for name in names]),
        (OPTIMIZER, [flat(which) for which in MOMENTS], [(name, which) for which in MOMENTS for name in names]),
    ]:
        file = writer = None
        try:
            if staged and not problem:
                file = open(staged / file_name, "wb")
                writer = Writer(file, plan)
        except OSError as error:
            problem = f"{staged / file_name}: {error}"
        for name, which in parts:
            tensor = gather(name, which)  # whatever happens to the file, the others wait for this
            try:
                if writer and not problem:
                    writer.write(tensor)
            except OSError as error:
                problem = f"{staged / file_name}: {error}"
        try:
            if writer and not problem:
                file.flush()
                os.fsync(file.fileno())
                entries[file_name] = {"bytes": writer.bytes, "sha256": writer.hash.hexdigest()}
        except OSError as error:
            problem = f"{staged / file_name}: {error}"
        if file:
            # A full disk can make even closing fail; the problem is known by then.
            with contextlib.suppress(OSError):
                file.close()
    if staged and not problem:
        try:
            texts = {**files, STATE: json.dumps(state.to_json(), indent=2).encode()}
            for name, data in texts.items():
                write_file(staged / name, data)
                entries[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            write_file(staged / MANIFEST, json.dumps({"step": state.step, "files": entries}, indent=2).encode())
            folder.publish(staged, state.step)
        except OSError as error:
            problem = f"{staged}: {error}"
    if staged and problem:
        shutil.rmtree(staged, ignore_errors=True)
    problem = world.agree(problem)
    if problem:
        raise CheckpointError(f"cannot save: {problem}")


def load(folder: Path, model: Decoder, optimizer: torch.optim.AdamW, step: int) -> None:
    """Reads weights and moments; every process reads the file and keeps its part."""
    params = dict(model.named_parameters())
    weights, moments = Reader(folder / WEIGHTS), Reader(folder / OPTIMIZER)
    names = layout(model.arch, model.quantizer)
    count = sum(params[name].numel() for name in names)
    mean, square = moments.get("mean", (count,)), moments.get("square", (count,))
    at = 0
    with torch.no_grad():
        for name in names:
            p = params[name]
            p.copy_(like(weights.get(name, p.shape), p))
            part = slice(at, at := at + p.numel())
            if step > 0:
                set_moments(optimizer, p, step, like(mean[part].view(p.shape).clone(), p), like(square[part].view(p.shape).clone(), p))


def read_weights(folder: Path, model: Decoder) -> None:
    """Reads the weights of a Hugging Face folder into a decoder that is not sharded."""
    index = folder / "model.safetensors.index.json"
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.exists() else {WEIGHTS}
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{index}: {error!r}") from error
    if any(Path(part).name != part for part in parts):
        raise ModelError(f"{index}: names a file elsewhere")
    readers = [Reader(folder / part) for part in sorted(parts)]
    with torch.no_grad():
        for name, p in model.named_parameters():
            reader = next((r for r in readers if name in r.names()), readers[0])
            p.copy_(reader.get(name, p.shape))
