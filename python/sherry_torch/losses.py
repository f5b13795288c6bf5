"""The head and the loss, some tokens at a time: logits of the whole batch never exist at once."""

from dataclasses import dataclass
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .config import LossConfig

# A target that does not count: padding.
IGNORED = -100

# Most logits held at once, per side.
LOGITS = 1 << 27


@dataclass(frozen=True)
class Mix:
    """The mix of losses; see `divergence`."""

    cross_entropy: float = 1.0
    distillation: float = 0.0
    divergence: str = "forward"
    top_k: int = 64

    @staticmethod
    def of(config: LossConfig) -> "Mix":
        return Mix(float(config.cross_entropy), float(config.distillation), config.divergence, config.top_k)


class Side(NamedTuple):
    """Final hidden states and the head that turns them into logits, multiplied in `dtype` (None: as they are)."""

    hidden: Tensor
    head: Tensor
    dtype: Optional[torch.dtype] = None

    def logits(self, start: int, end: int) -> Tensor:
        """Logits of some tokens, in float32 (or float64)."""
        hidden = self.hidden.flatten(0, 1)[start:end]
        if self.dtype is None:
            return F.linear(hidden, self.head)
        return F.linear(hidden.to(self.dtype), self.head.to(self.dtype)).float()


def divergence(student: Tensor, teacher: Tensor, targets: Tensor, kind: str, top_k: int) -> Tensor:
    """How the student differs from the teacher, per token, from log probabilities (`p` teacher, `q` student).

    forward: KL(p || q); reverse: KL(q || p); cakld (arXiv 2402.10631): c KL(q || p) + (1 - c) KL(p || q), `c` the
    teacher's probability of the target; top-k: KL(p' || q), `p'` the `top_k` largest of `p` made to sum to one."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a.exp() * (a - b)).sum(-1)

    if kind == "forward":
        return kl(teacher, student)
    if kind == "reverse":
        return kl(student, teacher)
    if kind == "cakld":
        c = teacher.gather(-1, targets.clamp(min=0)[:, None])[:, 0].exp()
        return c * kl(student, teacher) + (1 - c) * kl(teacher, student)
    top, index = teacher.topk(min(top_k, teacher.shape[-1]), -1)
    return kl(top.log_softmax(-1), student.gather(-1, index))


def _some(student: Side, teacher: Optional[Side], targets: Tensor, mix: Mix, start: int, end: int) -> tuple[Tensor, Tensor]:
    targets = targets[start:end]
    q = student.logits(start, end).log_softmax(-1)
    ce = F.nll_loss(q, targets, ignore_index=IGNORED, reduction="none")
    loss, kd = mix.cross_entropy * ce.sum(), torch.zeros_like(ce)
    if teacher is not None:
        p = teacher.logits(start, end).log_softmax(-1)
        kd = divergence(q, p, targets, mix.divergence, mix.top_k).masked_fill(targets == IGNORED, 0.0)
        loss = loss + mix.distillation * kd.sum()
    return loss, torch.stack([ce.detach().sum(dtype=torch.float64), kd.detach().sum(dtype=torch.float64)])


def head_loss(student: Side, teacher: Optional[Side], targets: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
    """The loss summed over the tokens that count, and the sums of cross entropy and divergence (float64)."""
    targets = targets.flatten()
    count = targets.numel()
    chunk = max(LOGITS // student.head.shape[0], 64)
    if count <= chunk:
        return _some(student, teacher, targets, mix, 0, count)
    parts = []
    for start in range(0, count, chunk):
        arguments = (student, teacher, targets, mix, start, min(start + chunk, count))
        parts.append(checkpoint(_some, *arguments, use_reentrant=False) if torch.is_grad_enabled() else _some(*arguments))
    return torch.stack([loss for loss, _ in parts]).sum(), torch.stack([sums for _, sums in parts]).sum(0)
