"""Quantizers, schedules, order and division of work, each against something independent of it."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT  # noqa: F401  (puts the package on the path)

from sherry_torch.config import ArenasConfig, OptimizerConfig
from sherry_torch.data import Order, _mix, permutation
from sherry_torch.losses import IGNORED, Mix, Side, head_loss
from sherry_torch.methods import Quantizer, QuantizedLinear
from sherry_torch.parallel import World, share
from sherry_torch.schedule import arenas, rate


def linear(method, **how):
    torch.manual_seed(1)
    module = QuantizedLinear(6, 64, Quantizer(method, tequila=0.01, **how), None).double()
    for name, p in module.named_parameters():
        torch.nn.init.normal_(p, 0.1 if "_" in name else 0.0, 0.01 if "_" in name else 0.1)
    return module, torch.randn(5, 64, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("method", ["sherry", "absmean", "absmedian", "twn", "binary", "tequila"])
@pytest.mark.parametrize("how", [{}, {"scale": "group", "group_size": 32}, {"scale": "tensor"}], ids=["row", "group", "tensor"])
def test_gradients_equal_autograd_through_a_detached_projection(method, how):
    module, x = linear(method, **how)
    w, q = module.weight, module.quantizer
    dy = torch.randn(5, 6, dtype=torch.float64)
    found = torch.autograd.grad(module(x, 0.3), [x, w], dy)
    y = F.linear(x, w + (q.project(w) - w).detach() + 0.3 * w)
    if method == "tequila":
        dead = q.project(w.detach()) == 0
        y = y + 0.01 * (w * dead).sum(1)
    torch.testing.assert_close(module(x, 0.3), y)
    torch.testing.assert_close(found, torch.autograd.grad(y, [x, w], dy))


@pytest.mark.parametrize("method, which", [("lsq", "scale"), ("seq", "scale"), ("dlt", "scale"), ("dlt", "shift")])
def test_learned_numbers_get_the_derivative_with_codes_held(method, which):
    """LSQ and SEQ inside their range: d(a T)/da = T - w/a, damped; DLT: T and 1."""
    module, x = linear(method)
    dy = torch.randn(5, 6, dtype=torch.float64)
    p = getattr(module, f"weight_{which}")
    (found,) = torch.autograd.grad(module(x, 0.2), [p], dy)
    w, g = module.weight.detach(), dy.T @ x.detach()
    a = module.weight_scale.detach().clamp(min=1e-5).half().double()[:, None]
    if method == "dlt":
        shift = module.weight_shift.detach().half().double()[:, None]
        t = ((w - shift) / a).round().clamp(-1, 1)
        expected = (g * (t if which == "scale" else torch.ones_like(t))).sum(1)
    else:
        u, levels, edge = w / a, (1.0 if method == "lsq" else 1.5), (1.0 if method == "lsq" else 0.99)
        inside = (u * levels).round() / levels - u
        expected = (g * torch.where(u.abs() <= edge, inside, u.sign())).sum(1) / math.sqrt(w.numel())
    torch.testing.assert_close(found, expected)


def test_ties_and_zeros():
    q = Quantizer("sherry")
    w = torch.tensor([[1.0, -1.0, 1.0, 1.0, 0.0, 0.0, -2.0, 0.0]])
    assert q.project(w).sign().tolist() == [[0, -1, 1, 1, 0, 1, -1, 1]]  # the first of equal ones; zeros count as +
    assert Quantizer("absmean").project(torch.tensor([[0.5, 1.0, 1.5, 1.0]])).tolist() == [[0.0, 1.0, 1.0, 1.0]]
    assert Quantizer("absmedian").project(torch.tensor([[1.0, 4.0, 2.0, 9.0]])).tolist() == [[0.0, 2.0, 2.0, 2.0]]


def test_stride16_quads_are_contiguous_ones_of_permuted_columns():
    w = torch.randn(3, 128)
    order = torch.arange(128).view(2, 4, 16).transpose(1, 2).reshape(-1)
    expected = Quantizer("sherry").project(w[:, order])
    assert torch.equal(Quantizer("sherry", quads="stride16").project(w)[:, order], expected)


def test_order_visits_every_window_and_resumes_anywhere():
    import numpy as np

    assert int(_mix(np.array([0x9E3779B97F4A7C15], np.uint64))[0]) == 0xE220A8397B1DCDAF  # SplitMix64 of 0, first number
    assert sorted(permutation(3, 1000, 0)) == list(range(1000)) != permutation(3, 1000, 0)
    assert permutation(3, 1000, 1) != permutation(3, 1000, 0)
    assert permutation(3, 1, 0) == [0]
    whole = Order(3, 10, 0).take(35)
    for start in range(35):
        assert Order(3, 10, start).take(35 - start) == whole[start:]


@pytest.mark.parametrize("size, accumulate", [(8, 4), (6, 2), (1, 12)])
def test_every_number_of_processes_shares_the_same_windows(size, accumulate):
    windows = list(range(size * accumulate))
    for processes in (n for n in range(1, len(windows) + 1) if len(windows) % n == 0):
        parts = [list(share(windows, size, World(r, processes, torch.device("cpu"), "none"))) for r in range(processes)]
        assert sorted(w for mine in parts for part in mine for w in part) == windows
        assert len({len(part) for mine in parts for part in mine}) == 1 and len(parts[0][0]) <= size


def test_schedules_end_where_they_should():
    for shape in ("linear", "cosine", "exponential"):
        values = [arenas(ArenasConfig(shape, 0.8, 0.1, 0.02), step, 1000) for step in range(1000)]
        assert values[0] == 0 and max(values) == values[100] == 0.8 and all(v == 0 for v in values[980:]) and values[979] > 0
        for steps in range(1, 20):
            assert arenas(ArenasConfig(shape, 1.0, 0.5, 0.0), steps - 1, steps) == 0
    for shape, end in (("constant", 1.0), ("cosine", 0.1), ("wsd", 0.1)):
        o = OptimizerConfig(lr=1.0, min_lr=0.1, schedule=shape, warmup=10)
        assert (rate(o, 0, 110), rate(o, 9, 110)) == (0.1, 1.0) and rate(o, 110, 110) == pytest.approx(end)


def test_a_loss_in_pieces_is_the_loss(monkeypatch):
    torch.manual_seed(2)
    student, teacher = (Side(torch.randn(4, 100, 8, requires_grad=True), torch.randn(1000, 8, requires_grad=True)) for _ in "ab")
    targets = torch.randint(0, 1000, (4, 100))
    targets[1, 50:] = IGNORED
    mix = Mix(0.5, 2.0, "cakld")
    whole, sums = head_loss(student, teacher, targets, mix)
    expected = torch.autograd.grad(whole, [student.hidden, student.head])
    monkeypatch.setattr("sherry_torch.losses.LOGITS", 64 * 1000)
    pieces, piece_sums = head_loss(student, teacher, targets, mix)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(piece_sums, sums)
    torch.testing.assert_close(torch.autograd.grad(pieces, [student.hidden, student.head]), expected, rtol=1e-4, atol=1e-4)
