"""PyTorch's side of step_bench: the same model and step in eager mode with SDPA attention.

python torch_bench.py [hidden layers heads kv_heads ffn vocab seq batch] [steps]; default 256 6 8 8 768 4096 256 16.
"""

import resource
import sys
import time

import torch
import torch.nn.functional as F

numbers = [int(a) for a in sys.argv[1:]]
HIDDEN, LAYERS, HEADS, KV, FFN, VOCAB, LENGTH, BATCH = numbers[:8] or [256, 6, 8, 8, 768, 4096, 256, 16]
STEPS = numbers[8] if len(numbers) > 8 else 6
DIM, LAMBDA = HIDDEN // HEADS, 0.1


def sherry(w):
    x = w.view(w.shape[0], -1, 4)
    a = x.abs()
    keep = torch.ones_like(x).scatter_(2, a.argmin(2, keepdim=True), 0.0)
    alpha = (a * keep).sum((1, 2)) / (0.75 * w.shape[1])
    return (torch.where(x < 0, -1.0, 1.0) * keep * alpha.view(-1, 1, 1)).view(w.shape)


class Linear(torch.nn.Linear):
    def forward(self, x):
        w = self.weight
        return F.linear(x, w * (1 + LAMBDA) + (sherry(w.detach()) - w.detach()))


def linear(i, o):
    m = Linear(i, o, bias=False)
    torch.nn.init.normal_(m.weight, std=0.02)
    return m


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.n2 = torch.nn.RMSNorm(HIDDEN, 1e-5), torch.nn.RMSNorm(HIDDEN, 1e-5)
        self.q, self.k, self.v = linear(HIDDEN, HEADS * DIM), linear(HIDDEN, KV * DIM), linear(HIDDEN, KV * DIM)
        self.o = linear(HEADS * DIM, HIDDEN)
        self.gate, self.up, self.down = linear(HIDDEN, FFN), linear(HIDDEN, FFN), linear(FFN, HIDDEN)

    def forward(self, x, cos, sin):
        h = self.n1(x)
        split = lambda y, heads: y.view(BATCH, LENGTH, heads, DIM).transpose(1, 2)
        q, k, v = split(self.q(h), HEADS), split(self.k(h), KV), split(self.v(h), KV)
        turn = lambda y: y * cos + torch.cat([-y[..., DIM // 2 :], y[..., : DIM // 2]], -1) * sin
        a = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True, enable_gqa=HEADS != KV)
        x = x + self.o(a.transpose(1, 2).reshape(BATCH, LENGTH, -1))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(VOCAB, HIDDEN)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = torch.nn.RMSNorm(HIDDEN, 1e-5)
        self.head = torch.nn.Linear(HIDDEN, VOCAB, bias=False)
        for m in (self.embed, self.head):
            torch.nn.init.normal_(m.weight, std=0.02)
        angle = torch.outer(torch.arange(LENGTH).float(), 1e4 ** (-torch.arange(DIM // 2).float() / (DIM // 2)))
        angle = torch.cat([angle, angle], -1)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


torch.manual_seed(1)
model = Model()
adam = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
tokens = torch.randint(0, VOCAB, (BATCH, LENGTH))
targets = tokens.flatten().roll(-1)
best = 1e9
for step in range(1, STEPS + 1):
    start = time.perf_counter()
    adam.zero_grad()
    loss = F.cross_entropy(model(tokens).view(-1, VOCAB), targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adam.step()
    seconds = time.perf_counter() - start
    best = min(best, seconds)
    print(f"step {step}: loss {loss.item():.4f}, {BATCH * LENGTH / seconds:.0f} tokens/s")
rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"best {BATCH * LENGTH / best:.0f} tokens/s, peak RSS {rss} kB, {torch.get_num_threads()} threads")
