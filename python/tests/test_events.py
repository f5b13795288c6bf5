"""Event files for TensorBoard: read with TensorBoard where it is installed, and those of both trainers are the same."""

import json
import re

import pytest

from sherry_torch.events import crc32c, record


def test_checksums_are_those_of_the_standards():
    # RFC 3720, appendix B.4, and the check value of the catalogue of CRC algorithms.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E
    # The header of the first record of every event file that TensorFlow has written.
    assert record(bytes(24))[:12] == bytes([24, 0, 0, 0, 0, 0, 0, 0, 0xA3, 0x7F, 0x4B, 0x22])


def payloads(run):
    """The events of a run without their times."""
    data = b"".join(path.read_bytes() for path in sorted(run.glob("events.out.tfevents.*")))
    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        assert data[at : at + 12] == record(data[at + 12 : at + 12 + length])[:12]
        assert data[at : at + 16 + length] == record(data[at + 12 : at + 12 + length])
        found.append(data[at + 12 + 9 : at + 12 + length])
        at += 16 + length
    return found


def test_both_trainers_write_the_same_events(lab):
    lab.configure(steps=8)
    rust = lab.rust("rust")
    lab.prepare("twin")
    lab.torch("twin")
    ours, others = payloads(lab.path / "rust"), payloads(lab.path / "twin")
    assert len(ours) == len(others) == 1 + len(rust)
    tags = [re.findall(rb"[a-z_]+/[a-z_]+|brain.Event:2", b" ".join(events)) for events in (ours, others)]
    assert tags[0] == tags[1] and b"loss/valid" in tags[0] and b"weight_over_alpha/down" in tags[0]


@pytest.mark.parametrize("trainer", ["rust", "torch"])
def test_tensorboard_shows_what_the_metrics_say(lab, trainer):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", exc_type=ImportError)
    run = lab.path / "run"
    lab.configure(steps=8)
    lab.prepare("run")
    go = lab.rust if trainer == "rust" else lab.torch
    go("run")
    # Begun again at a checkpoint in the middle: what came after it counts no longer.
    if trainer == "rust":
        lab.rust("run", "--resume", "run/checkpoint-00000005")
    events = accumulator.EventAccumulator(str(run), size_guidance={accumulator.SCALARS: 0, accumulator.HISTOGRAMS: 0})
    events.Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for field, tag in [("loss", "loss/train"), ("lr", "train/learning_rate"), ("valid_loss", "loss/valid")]:
        expected = [(line["step"], pytest.approx(line[field], rel=1e-6)) for line in lines if field in line]
        assert [(event.step, event.value) for event in events.Scalars(tag)] == expected
    probed = [line for line in lines if "histogram" in line]
    for line, event in zip(probed, events.Histograms("weight_over_alpha/q"), strict=True):
        assert event.step == line["step"]
        assert event.histogram_value.bucket == pytest.approx([1e5 * share for share in line["histogram"]["q"]])
