"""Writes golden.json and golden.bin: a tiny LLaMA trained by PyTorch's autograd, as the trainer's independent twin.

Needs only PyTorch; run it in this folder to regenerate. Everything is computed in float64 except for the projection,
whose codes and scales follow the float32/float16 rules of the trainer, so the numbers are an oracle and not a second
float32 program.

golden.bin holds float32: per case the gradients of the first batch and the parameters after ten AdamW steps, each in
the order of the tensors listed in golden.json. Initial parameters (and the teacher's) come from a generator of a few
lines that both sides have.
"""

import json
import math

import torch

torch.manual_seed(1)
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

HIDDEN, FFN, LAYERS, HEADS, KV, DIM, VOCAB, BATCH, LENGTH = 12, 20, 2, 4, 2, 4, 17, 2, 7
EPS, THETA, IGNORED = 1e-5, 10000.0, -1
STEPS, LR, BETAS, ADAM_EPS, DECAY, CLIP = 10, 3e-3, (0.9, 0.95), 1e-8, 0.1, 1.0
KINDS = [
    ("self_attn.q_proj", HEADS * DIM, HIDDEN), ("self_attn.k_proj", KV * DIM, HIDDEN),
    ("self_attn.v_proj", KV * DIM, HIDDEN), ("self_attn.o_proj", HIDDEN, HEADS * DIM),
    ("mlp.gate_proj", FFN, HIDDEN), ("mlp.up_proj", FFN, HIDDEN), ("mlp.down_proj", HIDDEN, FFN),
]


def stored(x):
    return x.float().half().double()


class Through(torch.autograd.Function):
    """Forward: the given values; backward: the identity."""

    @staticmethod
    def forward(ctx, w, q):
        return q.clone()

    @staticmethod
    def backward(ctx, g):
        return g, None


def sherry(w):
    x = w.reshape(w.shape[0], -1, 4)
    a = x.abs()
    zero = torch.zeros_like(x, dtype=torch.bool)
    zero.scatter_(2, torch.tensor([[int(min(range(4), key=lambda i: (q[i].item(), i))) for q in row] for row in a]).unsqueeze(2), True)
    t = torch.where(x < 0, -1.0, 1.0).masked_fill(zero, 0.0)
    alpha = stored((a * t.abs()).sum((1, 2)) / (0.75 * w.shape[1]))
    return (t * alpha.view(-1, 1, 1)).reshape(w.shape)


def absmean(w):
    s = w.abs().mean(1, keepdim=True)
    return torch.where(w.abs() > s / 2, torch.sign(w), 0.0) * stored(s)


def twn(w):
    t = torch.where(w.abs() > 0.75 * w.abs().mean(1, keepdim=True), torch.sign(w), 0.0)
    return t * stored((w.abs() * t.abs()).sum(1, keepdim=True) / t.abs().sum(1, keepdim=True))


def binary(w):
    return torch.where(w < 0, -1.0, 1.0) * stored(w.abs().mean(1, keepdim=True))


class Lsq(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, a):
        ctx.save_for_backward(w, a)
        a = stored(a.clamp(min=1e-5)).unsqueeze(1)
        return a * (w / a).round().clamp(-1, 1)

    @staticmethod
    def backward(ctx, g):
        w, a = ctx.saved_tensors
        x = w / stored(a.clamp(min=1e-5)).unsqueeze(1)
        inside = x.abs() <= 1
        da = (g * torch.where(inside, x.round() - x, torch.sign(x))).sum(1) / math.sqrt(w.numel())
        return g * inside, da


class Seq(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, a):
        ctx.save_for_backward(w, a)
        a = stored(a.clamp(min=1e-5)).unsqueeze(1)
        return stored(a / 1.5) * ((w / a).clamp(-0.99, 0.99) * 1.5).round()

    @staticmethod
    def backward(ctx, g):
        w, a = ctx.saved_tensors
        x = w / stored(a.clamp(min=1e-5)).unsqueeze(1)
        inside = x.abs() <= 0.99
        da = (g * torch.where(inside, (x * 1.5).round() / 1.5 - x, torch.sign(x))).sum(1) / math.sqrt(w.numel())
        return g * inside, da


class Dlt(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, a, shift):
        a, shift = stored(a.clamp(min=1e-5)).unsqueeze(1), stored(shift).unsqueeze(1)
        t = ((w - shift) / a).round().clamp(-1, 1)
        ctx.save_for_backward(t)
        return a * t + shift

    @staticmethod
    def backward(ctx, g):
        (t,) = ctx.saved_tensors
        return g, (g * t).sum(1), g.sum(1)


def linear(p, name, x, method, lam):
    w, bias = p[name + ".weight"], None
    if method == "none":
        return x @ w.T
    if method == "lsq":
        q = Lsq.apply(w, p[name + ".weight_scale"])
    elif method == "seq":
        q = Seq.apply(w, p[name + ".weight_scale"])
    elif method == "dlt":
        q = Dlt.apply(w, p[name + ".weight_scale"], p[name + ".weight_shift"])
    elif method == "tequila":
        q = Through.apply(w, absmean(w.detach()))
        dead = w.detach().abs() <= w.detach().abs().mean(1, keepdim=True) / 2
        bias = 1e-3 * (w * dead).sum(1)
    else:
        q = Through.apply(w, {"sherry": sherry, "absmean": absmean, "twn": twn, "binary": binary}[method](w.detach()))
    y = x @ (q + lam * w).T
    return y if bias is None else y + bias


def norm(x, w):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * w


def rotate(x):
    f = THETA ** (-torch.arange(DIM // 2) / (DIM // 2))
    angle = torch.arange(LENGTH)[:, None] * f
    c, s = angle.cos(), angle.sin()
    a, b = x[..., : DIM // 2], x[..., DIM // 2 :]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def logits(p, tokens, method, lam, tied):
    x = p["model.embed_tokens.weight"][tokens]
    mask = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
    for i in range(LAYERS):
        n = f"model.layers.{i}."
        h = norm(x, p[n + "input_layernorm.weight"])
        split = lambda y, heads: y.view(BATCH, LENGTH, heads, DIM).transpose(1, 2)
        q, k, v = (linear(p, n + f"self_attn.{c}_proj", h, method, lam) for c in "qkv")
        q, k, v = rotate(split(q, HEADS)), rotate(split(k, KV)), split(v, KV)
        k, v = k.repeat_interleave(HEADS // KV, 1), v.repeat_interleave(HEADS // KV, 1)
        a = (q @ k.transpose(2, 3) / math.sqrt(DIM) + mask).softmax(-1) @ v
        x = x + linear(p, n + "self_attn.o_proj", a.transpose(1, 2).reshape(BATCH, LENGTH, -1), method, lam)
        h = norm(x, p[n + "post_attention_layernorm.weight"])
        gate, up = (linear(p, n + f"mlp.{c}_proj", h, method, lam) for c in ("gate", "up"))
        x = x + linear(p, n + "mlp.down_proj", torch.nn.functional.silu(gate) * up, method, lam)
    x = norm(x, p["model.norm.weight"])
    return x @ p["model.embed_tokens.weight" if tied else "lm_head.weight"].T


def divergence(student, teacher, targets, kind):
    q, t = student.log_softmax(-1), teacher.log_softmax(-1)
    kl = lambda a, b: (a.exp() * (a - b)).sum(-1)
    if kind == "forward":
        return kl(t, q)
    if kind == "reverse":
        return kl(q, t)
    if kind == "cakld":
        c = t.gather(-1, targets.clamp(min=0)[..., None])[..., 0].exp()
        return c * kl(q, t) + (1 - c) * kl(t, q)
    top, index = t.topk(3, -1)
    top = top.log_softmax(-1)
    return (top.exp() * (top - q.gather(-1, index))).sum(-1)


def tensors(method, tied):
    out = [("model.embed_tokens.weight", [VOCAB, HIDDEN])]
    for i in range(LAYERS):
        n = f"model.layers.{i}."
        out.append((n + "input_layernorm.weight", [HIDDEN]))
        for j, (kind, rows, cols) in enumerate(KINDS):
            if j == 4:
                out.append((n + "post_attention_layernorm.weight", [HIDDEN]))
            out.append((n + kind + ".weight", [rows, cols]))
    out.append(("model.norm.weight", [HIDDEN]))
    if not tied:
        out.append(("lm_head.weight", [VOCAB, HIDDEN]))
    extra = {"lsq": ["scale"], "seq": ["scale"], "dlt": ["scale", "shift"]}.get(method, [])
    for i in range(LAYERS):
        out += [(f"model.layers.{i}.{kind}.weight_{e}", [rows]) for kind, rows, _ in KINDS for e in extra]
    return out


def init(shapes, seed):
    """Numbers that are exact in float32 and easy to make anywhere."""
    p = {}
    for name, shape in shapes:
        values = []
        for _ in range(math.prod(shape)):
            seed = (seed * 1664525 + 1013904223) % 2**32
            values.append((seed >> 8) / 2**23 - 1)
        x = torch.tensor(values).reshape(shape)
        p[name] = 1 + x / 8 if "norm" in name else 0.125 + x / 32 if ".weight_" in name else x / 4
    return p


CASES = [  # method, lambda, tied, cross entropy, distillation, divergence
    ("none", 0.0, False, 1.0, 0.0, "forward"), ("sherry", 0.3, True, 1.0, 0.0, "forward"),
    ("sherry", 0.0, False, 0.5, 0.7, "cakld"), ("absmean", 0.0, True, 0.0, 1.0, "forward"),
    ("twn", 0.2, True, 0.3, 1.0, "reverse"), ("binary", 0.1, True, 1.0, 0.5, "top-k"),
    ("lsq", 0.0, True, 1.0, 0.0, "forward"), ("seq", 0.0, True, 1.0, 0.0, "forward"),
    ("dlt", 0.0, True, 1.0, 0.0, "forward"), ("tequila", 0.0, True, 1.0, 0.0, "forward"),
]
report, blob = [], b""
for METHOD, lam, tied, ce_weight, kd_weight, kind in CASES:
    shapes = tensors(METHOD, tied)
    p = init(shapes, 1)
    teacher = init(shapes, 2)
    batches = torch.randint(0, VOCAB, (STEPS, BATCH, LENGTH + 1))
    targets = batches[:, :, 1:].clone()
    targets[:, 1, -2:] = IGNORED
    for x in p.values():
        x.requires_grad_()
    decay = [x for n, x in p.items() if "norm" not in n and ".weight_" not in n]
    rest = [x for n, x in p.items() if "norm" in n or ".weight_" in n]
    adam = torch.optim.AdamW(
        [{"params": decay, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}], lr=LR, betas=BETAS, eps=ADAM_EPS)
    losses, norms, first = [], [], None
    for step in range(STEPS):
        out = logits(p, batches[step, :, :-1], METHOD, lam, tied)
        t, live = targets[step], targets[step] != IGNORED
        ce = -out.log_softmax(-1).gather(-1, t.clamp(min=0)[..., None])[..., 0][live].mean()
        kd = torch.zeros(())
        if kd_weight:
            with torch.no_grad():
                reference = logits(teacher, batches[step, :, :-1], "none", 0.0, tied)
            kd = divergence(out, reference, t, kind)[live].mean()
        adam.zero_grad()
        (ce_weight * ce + kd_weight * kd).backward()
        first = first or {n: x.grad.clone() for n, x in p.items()}
        norms.append(torch.nn.utils.clip_grad_norm_(p.values(), CLIP).item())
        losses.append([ce.item(), kd.item()])
        adam.step()
    for group in (first, p):
        for name, _ in shapes:
            blob += group[name].detach().float().contiguous().numpy().tobytes()
    report.append(dict(method=METHOD, arenas=lam, tied=tied, cross_entropy=ce_weight, distillation=kd_weight, divergence=kind,
                       tensors=[n for n, _ in shapes], batches=batches.tolist(), losses=losses, grad_norms=norms))

with open("golden.json", "w") as f:
    json.dump(dict(hidden=HIDDEN, ffn=FFN, layers=LAYERS, heads=HEADS, kv_heads=KV, head_dim=DIM, vocab=VOCAB,
                   length=LENGTH, eps=EPS, theta=THETA, lr=LR, beta1=BETAS[0], beta2=BETAS[1], adam_eps=ADAM_EPS,
                   weight_decay=DECAY, clip=CLIP, top_k=3, cases=report), f)
with open("golden.bin", "wb") as f:
    f.write(blob)
