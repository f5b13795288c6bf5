"""AdamW on float32 masters with clipping by the global norm."""

from typing import Optional

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .config import OptimizerConfig
from .model import decays


def adamw(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """The optimizer; weight decay applies to matrices only."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, p in module.named_parameters():
        groups[decays(name)].append(p)
    return torch.optim.AdamW(
        [{"params": p, "weight_decay": float(config.weight_decay) if d else 0.0} for d, p in groups.items()],
        lr=config.lr,
        betas=(float(config.beta1), float(config.beta2)),
        eps=float(config.eps),
        fused=all(p.is_cuda for p in module.parameters()) or None,
    )


def clip(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scales all gradients together to a norm of at most `limit` (0: not at all); returns the norm before."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


MOMENTS = {"mean": "exp_avg", "square": "exp_avg_sq"}


def moment(optimizer: torch.optim.AdamW, p: nn.Parameter, which: str) -> Optional[Tensor]:
    """A running mean of one parameter; None before the first step."""
    return optimizer.state[p].get(MOMENTS[which]) if p in optimizer.state else None


def set_moments(optimizer: torch.optim.AdamW, p: nn.Parameter, step: int, mean: Tensor, square: Tensor) -> None:
    """Restores the running means of one parameter after `step` steps."""
    # Fused kernels want the counter beside the parameter.
    counter = torch.tensor(float(step), device=p.device if p.is_cuda else "cpu")
    optimizer.state[p] = {"step": counter, "exp_avg": mean, "exp_avg_sq": square}
