"""Bad configurations, data and checkpoints: one clear error each, nothing lost."""

import errno
import json
import struct

import pytest
import torch

from sherry_torch import checkpoint
from sherry_torch.checkpoint import CheckpointError, RunFolder
from sherry_torch.config import Config, ConfigError
from sherry_torch.data import DataError, Dataset
from sherry_torch.parallel import World
from sherry_torch.safetensors import Reader, Writer
from sherry_torch.train import Trainer

ONE = World(0, 1, torch.device("cpu"), "none")


@pytest.fixture
def run(lab, monkeypatch):
    lab.prepare("run")
    monkeypatch.chdir(lab.path)
    return lab.path / "run"


def config(*overrides):
    from pathlib import Path

    return Config.load(Path("run.toml"), list(overrides))


@pytest.mark.parametrize(
    "override, expected",
    [
        ("optimizer.lr=-1", "optimizer.lr"), ("optimizer.lr=nan", "optimizer.lr"), ("optimizer.lr=fast", "optimizer.lr"),
        ("optimizer.momentum=1", "optimizer.momentum"), ("steps=0", "steps"), ("steps=-3", "steps"), ("steps.x=3", "steps"),
        ("nonsense", "nonsense"), ("arenas.shape=square", "square"), ("quantizer.method=int3", "int3"),
        ("loss.distillation=1", "loss.teacher"), ("loss.cross_entropy=0", "loss.cross_entropy"), ("data.train=[]", "data.train"),
        ("model.tied=3", "model.tied"), ("batch.size=true", "batch.size"),
    ],
)  # fmt: skip
def test_every_configuration_error_names_its_field(run, override, expected):
    with pytest.raises(ConfigError, match=expected):
        config(override)


def test_the_configuration_is_written_as_rust_writes_it(run):
    state = json.loads((run / "checkpoint-00000000/state.json").read_text())
    assert config().to_json() == state["config"]
    assert config("threads=9", "checkpoint.keep=5", "data.cache=x").difference(state["config"]) is None
    assert config("optimizer.lr=2e-3").difference(state["config"]) == ("optimizer.lr", "0.003", "0.002")


def test_changed_runs_second_processes_and_odd_numbers_are_refused(run):
    with pytest.raises(CheckpointError, match="field 'optimizer.lr' was 0.003, is now 0.1"):
        Trainer(config("optimizer.lr=0.1"), run, ONE)
    with pytest.raises(ConfigError, match="3 processes do not share"):
        Trainer(config(), run, World(0, 3, torch.device("cpu"), "ddp"))
    holder = RunFolder(run)
    with pytest.raises(CheckpointError, match="another process"):
        Trainer(config(), run, ONE)
    del holder
    with pytest.raises(CheckpointError, match="--prepare"):
        Trainer(config(), run.parent / "nowhere", ONE)


def test_damaged_checkpoints_are_passed_over(run):
    Trainer(config("steps=20"), run, ONE).save()  # step 0 again, by this program
    good = run / "checkpoint-00000000"
    assert checkpoint.newest(run, print) == good
    newer = run / "checkpoint-00000003"
    for name in ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"):
        newer.mkdir()
        for file in good.iterdir():
            data = file.read_bytes()
            (newer / file.name).write_bytes(data[: len(data) // 2] if file.name == name else data)
        notes = []
        assert checkpoint.newest(run, notes.append) == good and "falling back" in notes[0] and name in notes[0]
        for file in newer.iterdir():
            file.unlink()
        newer.rmdir()


def test_damaged_tokens_are_noticed(run):
    cache = run.parent / "cache"
    path = cache / json.loads((run / "data.json").read_text())["train"]["file"]
    whole = path.read_bytes()
    for damaged in (b"", whole[:50], whole[:-1], b"X" + whole[1:], whole[:-1] + b"\x02"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            Dataset.open(run, str(cache), "train", 64, verify=True)
    path.unlink()
    with pytest.raises(DataError, match="--prepare"):
        Dataset.open(run, str(cache), "train", 64, verify=True)


def test_a_full_disk_loses_nothing(run, monkeypatch):
    trainer = Trainer(config(), run, ONE)
    trainer.state.step = 1
    for fail_at in (0, 1, 7, 40):
        calls = iter(range(10**6))

        def write(self, data, original=Writer._write):
            if next(calls) >= fail_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            original(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(Writer, "_write", write)
            with pytest.raises(CheckpointError, match="No space left"):
                trainer.save()
        assert [path.name for path in run.iterdir() if path.name.startswith("checkpoint")] == ["checkpoint-00000000"]
    trainer.save()
    checkpoint.verify(run / "checkpoint-00000001")


def test_a_loss_that_is_not_a_number_stops_the_run(lab, run):
    folder = run / "checkpoint-00000000"
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    size = int.from_bytes(data[:8], "little")
    start = json.loads(data[8 : 8 + size])["model.norm.weight"]["data_offsets"][0]
    data[8 + size + start : 12 + size + start] = struct.pack("<f", float("nan"))
    weights.write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.safetensors"] = checkpoint._hash(weights)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    message = lab.torch("run", code=2)
    assert "loss of step 1 is nan; the last good checkpoint is run/checkpoint-00000000" in message
    checkpoint.verify(folder)
    assert not (run / "checkpoint-00000001").exists()


def test_safetensors_of_both_programs_read_alike(run):
    """What this program writes equals what the Rust program wrote, tensor by tensor."""
    before = Reader(run / "checkpoint-00000000/model.safetensors")
    trainer = Trainer(config(), run, ONE)
    trainer.state.step = 1
    trainer.save()
    after = Reader(run / "checkpoint-00000001/model.safetensors")
    assert sorted(before.names()) == sorted(after.names())
    for name, p in trainer.model.named_parameters():
        assert torch.equal(before.get(name, p.shape), after.get(name, p.shape))
