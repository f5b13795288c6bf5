"""Several processes (gloo, CPU): same losses, survival of a killed one, and the way out through `sherry export`."""

import gzip
import os
import shutil
import signal
import subprocess
import time

import pytest
from conftest import ROOT, largest_difference

# Sums over processes round differently; nothing else differs.
LOSS = 2e-6


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_reach_the_losses_of_one(lab, parallel):
    for run in ("one", "two"):
        lab.prepare(run)
    one = lab.torch("one")
    two = lab.torch("two", processes=2, parallel=parallel)
    for field in ("loss", "valid_loss", "valid_loss_with_lambda"):
        assert largest_difference(one, two, field) < LOSS
    assert two[14]["flip_rate"] == pytest.approx(one[14]["flip_rate"], rel=1e-3)
    assert two[14]["grad_norms"] == pytest.approx(one[14]["grad_norms"], rel=1e-4)


@pytest.mark.parametrize("method", ["dlt", "lsq", "tequila"])
def test_learned_scales_are_sharded_too(lab, method):
    lab.configure(steps=6)
    change = [f"quantizer.method={method}", "batch.recompute=true"]
    for run in ("one", "two"):
        lab.prepare(run, *change)
    assert largest_difference(lab.torch("one", *change), lab.torch("two", *change, processes=2, parallel="fsdp")) < LOSS


def workers(parent):
    """Process ids of the training processes below `parent`, by rank."""
    found = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = dict(e.split(b"=", 1) for e in file.read().split(b"\0") if b"=" in e)
            with open(f"/proc/{pid}/stat") as file:
                above = int(file.read().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if above == parent and b"RANK" in environment:
            found[int(environment[b"RANK"])] = int(pid)
    return found


def wait_for(condition, what):
    for _ in range(3000):
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {what}")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes in /proc")
@pytest.mark.parametrize("parallel, rank, restarts", [("ddp", 1, 0), ("fsdp", 0, 0), ("fsdp", 1, 1)])
def test_a_killed_process_costs_nothing_but_time(lab, parallel, rank, restarts):
    lab.configure(steps=40)
    for run in ("whole", "killed"):
        lab.prepare(run)
    whole = lab.torch("whole", processes=2, parallel=parallel)
    how = dict(processes=2, parallel=parallel, restarts=restarts)
    launcher = subprocess.Popen(
        lab.command("killed", **how), cwd=lab.path, env=lab.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    wait_for((lab.path / "killed/checkpoint-00000005").exists, "checkpoint")
    victim = workers(launcher.pid)[rank]
    os.kill(victim, signal.SIGKILL)
    launcher.communicate(timeout=300)
    if restarts == 0:
        assert launcher.returncode != 0
        assert not (lab.path / "killed/checkpoint-00000040").exists()
        killed = lab.torch("killed", **how)
    else:  # torchrun has started both again
        assert launcher.returncode == 0
        killed = lab.metrics("killed")
    assert largest_difference(whole, killed) == 0.0
    assert largest_difference(whole, killed, "valid_loss") == 0.0


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes in /proc")
def test_an_interrupted_run_finishes_its_step_and_saves(lab):
    lab.configure(steps=40)
    for run in ("whole", "parts"):
        lab.prepare(run)
    whole = lab.torch("whole", processes=2, parallel="ddp")
    launcher = subprocess.Popen(
        lab.command("parts", processes=2, parallel="ddp"), cwd=lab.path, env=lab.environment(), stderr=subprocess.DEVNULL
    )
    wait_for((lab.path / "parts/checkpoint-00000005").exists, "checkpoint")
    os.kill(workers(launcher.pid)[1], signal.SIGINT)  # one hears it, all stop
    assert launcher.wait(timeout=300) == 0
    step = max(lab.metrics("parts"))
    assert step < 40 and (lab.path / f"parts/checkpoint-{step:08}/manifest.json").exists()
    # The rest on a single process: the number of processes is no part of a run.
    assert largest_difference(whole, lab.torch("parts")) < LOSS


def test_the_result_is_exported_and_speaks(lab):
    data = ROOT.parent / "shared" / "data"
    data = os.environ.get("SHERRY_DATA", str(data))
    packed = os.path.join(data, "tokenizers", "smollm2_tokenizer.json.gz")
    if not os.path.exists(packed):
        pytest.skip("no tokenizer; set SHERRY_DATA")
    (lab.path / "tokenizer").mkdir()
    with gzip.open(packed) as source, open(lab.path / "tokenizer/tokenizer.json", "wb") as target:
        shutil.copyfileobj(source, target)
    shutil.copy(packed.replace(".json.gz", "_config.json"), lab.path / "tokenizer/tokenizer_config.json")
    lab.configure(tokenizer="tokenizer")
    lab.prepare("run")
    lab.torch("run", processes=2, parallel="fsdp")
    assert "agree" in lab.sherry("export", "run", "out.sherry")
    spoken = lab.sherry("run", "out.sherry", "the cat", "--max-tokens", "8", "--temp", "0")
    assert spoken.strip()
