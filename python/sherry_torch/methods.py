"""How latent weights become the weights of the forward pass, and how their gradient comes back.

`W_eff = Q(W) + lambda W` (Arenas, arXiv 2601.07892, section 3.2). Gradients pass straight through `Q` unless said
otherwise, so `dW = (1 + lambda) dW_eff`. Scales are sums in float64 rounded to float16, as an export stores them.
"""

import math
from dataclasses import dataclass
from typing import Callable, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import QuantizerConfig

LEARNED = {"lsq": ("scale",), "seq": ("scale",), "dlt": ("scale", "shift")}

# SEQ: values are clipped to this share of the range, then rounded to levels -1, 0, 1 of 2/3 of it.
SEQ_CLIP, SEQ_LEVELS = 0.99, 1.5


def stored(scale: Tensor) -> Tensor:
    """The nearest float16, as float32 (as float64 for float64)."""
    return scale.float().half().to(scale.dtype)


def _floor(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest number of type `dtype` up to `x`: `a > x` exactly when `a > _floor(x)` for every `a` of that type."""
    y = x.to(dtype)
    return torch.where(y.double() > x, torch.nextafter(y, torch.full_like(y, -math.inf)), y)


def _mean(x: Tensor) -> Tensor:
    return x.abs().sum(1, keepdim=True, dtype=torch.float64) / x.shape[1]


def _signs(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x < 0, -alpha, alpha)


def _cut(x: Tensor, threshold: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x.abs() > _floor(threshold, x.dtype), _signs(x, alpha), 0.0)


def _alpha(alpha: Tensor, x: Tensor) -> Tensor:
    """A scale in float64 as it is stored, in the type of the weights."""
    return alpha.float().half().to(x.dtype)


# Each projection maps rows of weights that share a scale to alpha * T.


def _sherry(x: Tensor, stride: int) -> Tensor:
    """Of every quad the smallest magnitude becomes zero (the first of equal ones); alpha is the mean of the others."""
    quads = x.view(x.shape[0], -1, 4, stride)
    low, zero = quads.abs().min(2, keepdim=True)
    kept = x.abs().sum(1, dtype=torch.float64) - low.sum((1, 2, 3), dtype=torch.float64)
    alpha = _alpha(kept / (x.shape[1] // 4 * 3), x).view(-1, 1, 1, 1)
    return _signs(quads, alpha).scatter_(2, zero, 0.0).view_as(x)


def _absmean(x: Tensor) -> Tensor:
    mean = _mean(x)
    return _cut(x, mean / 2, _alpha(mean, x))


def _absmedian(x: Tensor) -> Tensor:
    median = x.abs().median(1, keepdim=True).values.double()  # the lower of two
    return _cut(x, median / 2, _alpha(median, x))


def _twn(x: Tensor) -> Tensor:
    keep = x.abs() > _floor(0.75 * _mean(x), x.dtype)
    count = keep.sum(1, keepdim=True)
    kept = torch.where(keep, x.abs(), 0.0).sum(1, keepdim=True, dtype=torch.float64)
    return torch.where(keep, _signs(x, _alpha(kept / count.clamp(min=1), x)), 0.0)


def _binary(x: Tensor) -> Tensor:
    return _signs(x, _alpha(_mean(x), x))


@dataclass(frozen=True)
class Quantizer:
    """Method and granularity."""

    method: str = "none"
    scale: str = "row"
    group_size: int = 128
    quads: str = "contiguous"
    tequila: float = 0.0

    @staticmethod
    def of(config: QuantizerConfig) -> "Quantizer":
        return Quantizer(config.method, config.scale, config.group_size, config.quads, float(config.tequila))

    def unit(self, rows: int, cols: int) -> int:
        """Weights of a matrix that share a scale."""
        if self.method in ("lsq", "seq") or self.scale == "row":
            return cols
        return self.group_size if self.scale == "group" else rows * cols

    def learned(self) -> tuple[str, ...]:
        """Learned numbers beside each matrix: suffixes of their names."""
        return LEARNED.get(self.method, ())

    def project(self, w: Tensor, scale: Optional[Tensor] = None, shift: Optional[Tensor] = None) -> Tensor:
        """`Q(W)`; `scale` and `shift` for the methods that learn them."""
        if self.method == "none":
            return w
        x = w.reshape(-1, self.unit(*w.shape))
        if self.method == "sherry":
            q = _sherry(x, 1 if self.quads == "contiguous" else 16)
        elif self.method in ("absmean", "tequila"):
            q = _absmean(x)
        elif self.method == "lsq":
            a = _positive(scale)
            q = a * (x / a).clamp(-1, 1).round()
        elif self.method == "seq":
            a = _positive(scale)
            q = stored(a / SEQ_LEVELS) * ((x / a).clamp(-SEQ_CLIP, SEQ_CLIP) * SEQ_LEVELS).round()
        elif self.method == "dlt":
            a, b = _positive(scale), stored(shift)[:, None]
            q = a * ((x - b) / a).clamp(-1, 1).round() + b
        else:
            q = {"absmedian": _absmedian, "twn": _twn, "binary": _binary}[self.method](x)
        return q.view_as(w)

    def effective(self, w: Tensor, scale: Optional[Tensor], shift: Optional[Tensor], lam: float) -> Tensor:
        """`Q(W) + lambda W`."""
        q = self.project(w, scale, shift)
        return q if lam == 0.0 or self.method == "none" else q.add_(w, alpha=lam)

    def bias(self, w: Tensor) -> Tensor:
        """Tequila's row biases: `tequila` times the sum of the zeroed weights of each row."""
        return self.tequila * torch.where(self._dead(w), w, 0.0).sum(1)

    def _dead(self, w: Tensor) -> Tensor:
        x = w.reshape(-1, self.unit(*w.shape))
        return (x.abs() <= _floor(_mean(x) / 2, x.dtype)).view_as(w)

    def gradient(
        self, w: Tensor, scale: Optional[Tensor], shift: Optional[Tensor], g: Tensor, d_bias: Optional[Tensor], lam: float
    ) -> tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
        """Gradients of weights, scales and shifts from `g = dW_eff` (which may be overwritten)."""
        if self.method == "none":
            return g, None, None
        if self.method not in ("lsq", "seq", "dlt", "tequila"):
            return g.mul_(1.0 + lam), None, None
        if self.method == "tequila":
            return g * (1.0 + lam) + torch.where(self._dead(w), self.tequila * d_bias[:, None], 0.0), None, None
        x, g = w.reshape(-1, self.unit(*w.shape)), g.reshape(-1, self.unit(*w.shape))
        a = _positive(scale)
        if self.method == "dlt":
            t = ((x - stored(shift)[:, None]) / a).clamp(-1, 1).round()
            return (g * (1.0 + lam)).view_as(w), (g * t).sum(1), g.sum(1)
        x = x / a
        if self.method == "lsq":
            inside = x.abs() <= 1.0
            pull = torch.where(inside, x.round() - x, x.sign())
        else:
            inside = x.abs() <= SEQ_CLIP
            pull = torch.where(inside, (x * SEQ_LEVELS).round() / SEQ_LEVELS - x, x.sign())
        # The gradient of the scale is damped by 1/sqrt(weights * levels).
        return (g * (inside + lam)).view_as(w), (g * pull).sum(1) / math.sqrt(w.numel()), None


def _positive(scale: Tensor) -> Tensor:
    # Lifted as in the published code.
    return stored(scale.clamp(min=1e-5))[:, None]


FULL = Quantizer()


class _QuantizedProduct(torch.autograd.Function):
    """`x W_eff^T`. Keeps `x` and `W`; `W_eff` is computed again in backward, so that it never outlives its use (and
    sharded weights can be let go between forward and backward)."""

    @staticmethod
    def forward(ctx, x, w, scale, shift, quantizer, lam, probe):  # type: ignore[override]
        ctx.save_for_backward(x, w, scale, shift)
        ctx.quantizer, ctx.lam, ctx.probe = quantizer, lam, probe
        y = F.linear(x, quantizer.effective(w, scale, shift, lam).to(x.dtype))
        return y if quantizer.method != "tequila" else y + quantizer.bias(w).to(x.dtype)

    @staticmethod
    def backward(ctx, dy):  # type: ignore[override]
        x, w, scale, shift = ctx.saved_tensors
        quantizer, lam = ctx.quantizer, ctx.lam
        dx = dy @ quantizer.effective(w, scale, shift, lam).to(dy.dtype)
        if ctx.probe is not None:
            ctx.probe(dx.flatten(0, -2))
        dy = dy.flatten(0, -2)
        g = (dy.T @ x.flatten(0, -2)).to(w.dtype)
        d_bias = dy.sum(0, dtype=w.dtype) if quantizer.method == "tequila" else None
        return dx, *quantizer.gradient(w, scale, shift, g, d_bias, lam), None, None, None


class QuantizedLinear(torch.nn.Module):
    """A linear map without bias whose weights are quantized in every pass; `dtype` of the product may be lower."""

    def __init__(self, rows: int, cols: int, quantizer: Quantizer, dtype: Optional[torch.dtype]):
        super().__init__()
        self.quantizer, self.dtype = quantizer, dtype
        self.weight = torch.nn.Parameter(torch.empty(rows, cols))
        for name in ("scale", "shift"):
            has = name in quantizer.learned()
            count = rows * cols // quantizer.unit(rows, cols)
            self.register_parameter(f"weight_{name}", torch.nn.Parameter(torch.empty(count)) if has else None)
        # Called in backward with dL/dx, rows of all tokens.
        self.probe: Optional[Callable[[Tensor], None]] = None

    def forward(self, x: Tensor, lam: float) -> Tensor:
        x = x if self.dtype is None else x.to(self.dtype)
        arguments = (self.weight, self.weight_scale, self.weight_shift, self.quantizer, lam, self.probe)
        return _QuantizedProduct.apply(x, *arguments)
