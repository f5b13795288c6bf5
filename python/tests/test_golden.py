"""The package in float32 against the committed golden file, which is the Rust trainer's test as well."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from make_golden import CASES, train

FOLDER = ROOT / "crates/train/tests/golden"


@pytest.fixture(scope="module")
def golden():
    return json.loads((FOLDER / "golden.json").read_text()), np.fromfile(FOLDER / "golden.bin", "<f4")


def distance(found, expected):
    """Largest difference relative to the largest element."""
    return np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6)


@pytest.mark.parametrize("index", range(len(CASES)), ids=[f"{case[0]}-{case[5]}" for case in CASES])
@pytest.mark.parametrize("dtype, tight", [(torch.float32, 1e-4), (torch.float64, 2e-6)], ids=["f32", "f64"])
def test_losses_gradients_and_ten_steps(golden, index, dtype, tight):
    report, numbers = golden
    case = report["cases"][index]
    batches = torch.tensor(case["batches"])
    losses, norms, first, params, names = train(CASES[index], batches, dtype)
    assert names == case["tensors"]
    np.testing.assert_allclose(losses, case["losses"], atol=tight / 5)
    np.testing.assert_allclose(norms, case["grad_norms"], rtol=2 * tight)
    at = sum(2 * sum(params_of(c)) for c in CASES[:index])
    for group in (first, params):
        for name in names:
            found = group[name].detach().numpy().ravel()
            expected = numbers[at : at + found.size]
            at += found.size
            assert distance(found, expected) < tight, name


def params_of(case):
    from make_golden import model

    return [p.numel() for p in model(case[0], case[2], 1).parameters()]
