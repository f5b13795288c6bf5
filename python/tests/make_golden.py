"""Writes golden.json and golden.bin of the Rust trainer's tests: a tiny LLaMA trained by sherry_torch in float64.

    python python/tests/make_golden.py crates/train/tests/golden

Everything is computed in float64 except for codes and scales of the projections, which follow the float32 and float16
rules of the trainer, so the numbers are an oracle and not a second float32 program.

golden.bin holds float32: per case the gradients of the first batch and the parameters after ten AdamW steps, each in
the order of the tensors listed in golden.json. Initial parameters (and the teacher's) come from a generator of a few
lines that both sides have.
"""

import json
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from sherry_torch import optim  # noqa: E402
from sherry_torch.config import F32, OptimizerConfig  # noqa: E402
from sherry_torch.losses import IGNORED, Mix  # noqa: E402
from sherry_torch.methods import FULL, Quantizer  # noqa: E402
from sherry_torch.model import Arch, Decoder, layout  # noqa: E402

BATCH, LENGTH, STEPS, VOCAB, TOP_K = 2, 7, 10, 17, 3
OPTIMIZER = OptimizerConfig(lr=3e-3, weight_decay=F32(0.1))
CASES = [  # method, lambda, tied, cross entropy, distillation, divergence
    ("none", 0.0, False, 1.0, 0.0, "forward"), ("sherry", 0.3, True, 1.0, 0.0, "forward"),
    ("sherry", 0.0, False, 0.5, 0.7, "cakld"), ("absmean", 0.0, True, 0.0, 1.0, "forward"),
    ("twn", 0.2, True, 0.3, 1.0, "reverse"), ("binary", 0.1, True, 1.0, 0.5, "top-k"),
    ("lsq", 0.0, True, 1.0, 0.0, "forward"), ("seq", 0.0, True, 1.0, 0.0, "forward"),
    ("dlt", 0.0, True, 1.0, 0.0, "forward"), ("tequila", 0.0, True, 1.0, 0.0, "forward"),
]  # fmt: skip


def arch(tied):
    return Arch(vocab=VOCAB, hidden=12, ffn=20, layers=2, heads=4, kv_heads=2, head_dim=4, tied=tied)


def draws(seed):
    """Numbers in [-1, 1) that are exact in float32 and easy to make anywhere."""
    while True:
        seed = (seed * 1664525 + 1013904223) % 2**32
        yield (seed >> 8) / 2**23 - 1


def model(method, tied, seed, dtype=torch.float64):
    """A decoder with such parameters."""
    quantizer = FULL if method == "none" else Quantizer(method, tequila=1e-3)
    decoder = Decoder.empty(arch(tied), quantizer, LENGTH).to(dtype).materialize(torch.device("cpu"))
    params, numbers = dict(decoder.named_parameters()), draws(seed)
    with torch.no_grad():
        for name in layout(decoder.arch, decoder.quantizer):
            values = [next(numbers) for _ in range(params[name].numel())]
            x = torch.tensor(values, dtype=torch.float64).view(params[name].shape)
            params[name].copy_(1 + x / 8 if "norm" in name else 0.125 + x / 32 if ".weight_" in name else x / 4)
    return decoder


def train(case, batches, dtype=torch.float64):
    """Ten steps on these batches: losses, gradient norms, first gradients, last parameters, names."""
    method, lam, tied, ce_weight, kd_weight, kind = case
    student, teacher = model(method, tied, 1, dtype), model("none", tied, 2, dtype)
    params = dict(student.named_parameters())
    names = layout(student.arch, student.quantizer)
    adam = optim.adamw(student, OPTIMIZER)
    mix = Mix(ce_weight, kd_weight, kind, TOP_K)
    losses, norms, first = [], [], {}
    for batch in batches:
        targets = batch[:, 1:].clone()
        targets[1, -2:] = IGNORED
        live = int((targets != IGNORED).sum())
        with torch.no_grad():
            side = teacher.side(batch[:, :-1], 0.0) if kd_weight else None
        adam.zero_grad()
        loss, sums = student(batch[:, :-1], targets, lam, mix, side)
        (loss / live).backward()
        first = first or {name: params[name].grad.clone() for name in names}
        norms.append(optim.clip(list(params.values()), OPTIMIZER.clip).item())
        losses.append((sums / live).tolist())
        adam.step()
    return losses, norms, first, params, names


def main(folder):
    torch.manual_seed(1)
    torch.set_num_threads(1)
    report, blob = [], b""
    for case in CASES:
        batches = torch.randint(0, VOCAB, (STEPS, BATCH, LENGTH + 1))
        losses, norms, first, params, names = train(case, batches)
        for group in (first, params):
            blob += b"".join(group[name].detach().float().numpy().tobytes() for name in names)
        keys = ("method", "arenas", "tied", "cross_entropy", "distillation", "divergence")
        fields = dict(tensors=names, batches=batches.tolist(), losses=losses, grad_norms=norms)
        report.append(dict(zip(keys, case)) | fields)
    a, o = arch(True), OPTIMIZER
    constants = dict(
        hidden=a.hidden, ffn=a.ffn, layers=a.layers, heads=a.heads, kv_heads=a.kv_heads, head_dim=a.head_dim, vocab=a.vocab,
        length=LENGTH, eps=a.norm_eps, theta=a.rope_theta, lr=o.lr, beta1=0.9, beta2=0.95, adam_eps=1e-8, weight_decay=0.1,
        clip=1.0, top_k=TOP_K, cases=report,
    )  # fmt: skip
    (folder / "golden.json").write_text(json.dumps(constants))
    (folder / "golden.bin").write_bytes(blob)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
