"""Fixtures: a tiny run folder made by the Rust binary, and ways to run both trainers.

SHERRY_BIN names the binary; default: the release build of the workspace, then the debug build, then PATH.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch").set_num_threads(1)

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "python"))


def _binary():
    candidates = [os.environ.get("SHERRY_BIN"), ROOT / "target/release/sherry", ROOT / "target/debug/sherry"]
    return next((str(c) for c in candidates if c and Path(c).exists()), shutil.which("sherry"))


WORDS = ["the cat ", "a dog ", "sat on ", "the mat. ", "ran home. ", "and then ", "it slept. "]

CONFIG = """
steps = {steps}
seed = 3
threads = 1
[model]
hidden = 64
ffn = 128
layers = 2
heads = 4
kv_heads = 2
[optimizer]
lr = 3e-3
warmup = 2
weight_decay = 0.1
[batch]
length = 64
size = 4
accumulate = 2
[data]
train = ["train.txt"]
valid = ["valid.txt"]
tokenizer = "{tokenizer}"
cache = "cache"
[checkpoint]
every = 5
keep = 9
[metrics]
every = 1
probe_every = 7
valid_every = 10
valid_sequences = 9
"""


class Lab:
    """A folder with data and a configuration, in which runs of both trainers can be made."""

    def __init__(self, path, binary):
        import random

        self.path, self.binary = path, binary
        draw = random.Random(1)
        for name, count in (("train.txt", 6000), ("valid.txt", 800)):
            (path / name).write_text("".join(draw.choice(WORDS) for _ in range(count)))
        self.configure()

    def configure(self, steps=20, tokenizer="bytes"):
        (self.path / "run.toml").write_text(CONFIG.format(steps=steps, tokenizer=tokenizer))

    def sherry(self, *arguments, code=0):
        done = subprocess.run([self.binary, *map(str, arguments)], cwd=self.path, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def rust(self, run, *overrides):
        self.sherry("-q", "train", "run.toml", "--run", run, *overrides)
        return self.metrics(run)

    def prepare(self, run, *overrides):
        self.sherry("-q", "train", "run.toml", "--run", run, "--prepare", *overrides)

    def command(self, run, *overrides, processes=1, parallel="none", restarts=0):
        launch = [sys.executable, "-m"]
        if processes > 1:
            launch += ["torch.distributed.run", "--nproc-per-node", str(processes), "--max-restarts", str(restarts)]
            launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m"]
        options = ["--folder", run, "--parallel", parallel, "--device", "cpu"]
        return [*launch, "sherry_torch.train", "run.toml", *options, *overrides]

    def environment(self):
        return {**os.environ, "PYTHONPATH": str(ROOT / "python"), "OMP_NUM_THREADS": "1"}

    def torch(self, run, *overrides, code=0, **how):
        command = self.command(run, *overrides, **how)
        done = subprocess.run(command, cwd=self.path, env=self.environment(), capture_output=True, text=True, timeout=600)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else self.metrics(run)

    def metrics(self, run):
        lines = (self.path / run / "metrics.jsonl").read_text().splitlines()
        return {line["step"]: line for line in map(json.loads, lines)}


@pytest.fixture
def lab(tmp_path):
    binary = _binary()
    if binary is None:
        pytest.skip("no sherry binary; build it or set SHERRY_BIN")
    return Lab(tmp_path, binary)


def largest_difference(a, b, field="loss"):
    """Over all steps of two metrics files."""
    assert a.keys() == b.keys()
    return max((abs(a[step][field] - b[step][field]) for step in a if field in a[step] or field in b[step]), default=0.0)
