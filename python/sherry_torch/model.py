"""The decoder of LLaMA and Qwen3: module names are those of the tensors in a Hugging Face folder."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .losses import Mix, Side, head_loss
from .methods import FULL, QuantizedLinear, Quantizer

# The projections of a block in the order of the parameters, and their paths.
KINDS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}  # fmt: skip


FAMILIES = ("llama", "qwen3")


class ModelError(Exception):
    """A model that cannot be trained or read; the message names file and field."""


@dataclass(frozen=True)
class Arch:
    """Sizes and constants of a decoder."""

    vocab: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool = True
    norm_eps: float = 1e-5
    rope_theta: float = 1e4
    rope_scaling: Optional[dict[str, Any]] = None
    qk_norm: bool = False  # of every query and key head, before the rotation

    @staticmethod
    def of_folder(folder: Path) -> "Arch":
        """Reads `config.json`."""
        path = Path(folder) / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            family = config.get("model_type")
            if family not in FAMILIES:
                others = "sherry train trains Hunyuan and Gemma 3 as well"
                raise ModelError(f"{path}: model_type is {family!r}, only {' and '.join(FAMILIES)} are trained here; {others}")
            heads = config["num_attention_heads"]
            rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
            kind = rope.get("rope_type", rope.get("type", "default"))
            arch = Arch(
                vocab=config["vocab_size"],
                hidden=config["hidden_size"],
                ffn=config["intermediate_size"],
                layers=config["num_hidden_layers"],
                heads=heads,
                kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim") or (128 if family == "qwen3" else config["hidden_size"] // heads),
                tied=config.get("tie_word_embeddings", False),
                norm_eps=config.get("rms_norm_eps", 1e-6),
                rope_theta=config.get("rope_theta", rope.get("rope_theta", 1e4)),
                rope_scaling=None if kind == "default" else {**rope, "rope_type": kind},
                qk_norm=family == "qwen3",
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path}: cannot be read: {error!r}") from error
        if config.get("attention_bias") or config.get("mlp_bias") or config.get("hidden_act", "silu") != "silu":
            raise ModelError(f"{path}: biases and activations other than SiLU are not trained")
        if kind not in ("default", "linear", "llama3"):
            raise ModelError(f"{path}: rope_type {kind!r} is not known")
        return arch

    def shape(self, kind: str) -> tuple[int, int]:
        """Out and in features of a projection."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q": (q, self.hidden), "k": (kv, self.hidden), "v": (kv, self.hidden), "o": (self.hidden, q),
            "gate": (self.ffn, self.hidden), "up": (self.ffn, self.hidden), "down": (self.hidden, self.ffn),
        }[kind]  # fmt: skip

    def frequencies(self) -> Tensor:
        """Angle per position of each rotated pair, float64."""
        half = self.head_dim // 2
        f = self.rope_theta ** (-torch.arange(half, dtype=torch.float64, device="cpu") / half)
        s = self.rope_scaling
        if s is None:
            return f
        if s["rope_type"] == "linear":
            return f / s["factor"]
        turns = s["original_max_position_embeddings"] * f / (2 * math.pi)
        keep = ((turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])).clamp(0, 1)
        return f * keep + f / s["factor"] * (1 - keep)


def layout(arch: Arch, quantizer: Quantizer) -> list[str]:
    """Names of all parameters in the order of the Rust trainer, which is that of the optimizer's flat moments."""
    names = ["model.embed_tokens.weight"]
    for i in range(arch.layers):
        names.append(f"model.layers.{i}.input_layernorm.weight")
        for kind, path in KINDS.items():
            if kind == "o" and arch.qk_norm:
                names += [f"model.layers.{i}.self_attn.{norm}.weight" for norm in ("q_norm", "k_norm")]
            if kind == "gate":
                names.append(f"model.layers.{i}.post_attention_layernorm.weight")
            names.append(f"model.layers.{i}.{path}.weight")
    names.append("model.norm.weight")
    if not arch.tied:
        names.append("lm_head.weight")
    for i in range(arch.layers):
        names += [f"model.layers.{i}.{path}.weight_{what}" for path in KINDS.values() for what in quantizer.learned()]
    return names


def decays(name: str) -> bool:
    """Whether weight decay applies: to matrices, not to norms and learned scales."""
    return not name.endswith(("norm.weight", "_scale", "_shift"))


class Norm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on `[batch, heads, length, head_dim]`, pairs in halves; in the precision of the table."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def document_mask(tokens: Tensor, separator: int) -> Tensor:
    """What each position sees, `[batch, 1, length, length]`: its document, which began at a separator, up to itself."""
    document = (tokens == separator).cumsum(1)
    same = document[:, None, :, None] == document[:, None, None, :]
    return same & torch.ones(same.shape[-2:], dtype=torch.bool, device=tokens.device).tril()


class Block(nn.Module):
    """`x += o(attention(rope(qkv(norm(x)))))`, `x += down(silu(gate) * up)`."""

    def __init__(self, arch: Arch, quantizer: Quantizer, dtype: Optional[torch.dtype], recompute: bool):
        super().__init__()
        linear = {path: QuantizedLinear(*arch.shape(kind), quantizer, dtype) for kind, path in KINDS.items()}
        self.head_dim, self.recompute = arch.head_dim, recompute
        self.input_layernorm = Norm(arch.hidden, arch.norm_eps)
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        for path, module in linear.items():
            room, name = path.split(".")
            getattr(self, room).add_module(name, module)
        self.qk_norm = arch.qk_norm
        if arch.qk_norm:
            self.self_attn.q_norm, self.self_attn.k_norm = (Norm(arch.head_dim, arch.norm_eps) for _ in range(2))
        self.post_attention_layernorm = Norm(arch.hidden, arch.norm_eps)

    def projections(self) -> dict[str, QuantizedLinear]:
        return {kind: self.get_submodule(path) for kind, path in KINDS.items()}

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, lam: float, mask: Optional[Tensor]) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._forward, x, cos, sin, lam, mask, use_reentrant=False)
        return self._forward(x, cos, sin, lam, mask)

    def _forward(self, x: Tensor, cos: Tensor, sin: Tensor, lam: float, mask: Optional[Tensor]) -> Tensor:
        attn, mlp, (batch, length, _) = self.self_attn, self.mlp, x.shape
        h = self.input_layernorm(x)
        q, k, v = (
            p(h, lam).view(batch, length, -1, self.head_dim).transpose(1, 2) for p in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        if self.qk_norm:
            q, k = attn.q_norm(q.to(cos.dtype)), attn.k_norm(k.to(cos.dtype))
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        gqa = q.shape[1] != k.shape[1]
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=gqa)
        x = x + attn.o_proj(a.transpose(1, 2).reshape(batch, length, -1), lam)
        h = self.post_attention_layernorm(x)
        return x + mlp.down_proj(F.silu(mlp.gate_proj(h, lam)) * mlp.up_proj(h, lam), lam)


class Decoder(nn.Module):
    """The model with its loss, so that one forward call of a wrapped module does everything.

    `dtype` is that of the matrix products (None: as the parameters). The residual stream, norms and the softmax of the
    loss are in float32 at least."""

    def __init__(
        self, arch: Arch, quantizer: Quantizer = FULL, length: int = 1, dtype: Optional[torch.dtype] = None, recompute=False
    ):
        super().__init__()
        self.arch, self.quantizer, self.length, self.dtype = arch, quantizer, length, dtype
        # Attention stays within documents, each of which begins with this token, if there is one.
        self.separator: Optional[int] = None
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(arch.vocab, arch.hidden)
        self.model.layers = nn.ModuleList(Block(arch, quantizer, dtype, recompute) for _ in range(arch.layers))
        self.model.norm = Norm(arch.hidden, arch.norm_eps)
        if not arch.tied:
            self.lm_head = nn.Linear(arch.hidden, arch.vocab, bias=False)
        self.register_buffer("cos", torch.empty(length, arch.head_dim // 2), persistent=False)
        self.register_buffer("sin", torch.empty(length, arch.head_dim // 2), persistent=False)

    @staticmethod
    def empty(arch: Arch, *args, **kwargs) -> "Decoder":
        """A decoder without storage; `materialize` gives it some."""
        with torch.device("meta"):
            return Decoder(arch, *args, **kwargs)

    def materialize(self, device: torch.device) -> "Decoder":
        """Allocates parameters (unset) and the rotary tables on `device`."""
        self.to_empty(device=device)
        angles = torch.outer(torch.arange(self.length, dtype=torch.float64), self.arch.frequencies())
        # Never below float32: the tables' type is that of the rotation and of the residual stream.
        dtype = torch.promote_types(torch.float32, self.model.norm.weight.dtype)
        self.cos, self.sin = angles.cos().to(device, dtype), angles.sin().to(device, dtype)
        return self

    def hidden(self, tokens: Tensor, lam: float) -> Tensor:
        """Final hidden states, after the last norm."""
        x = self.model.embed_tokens(tokens).to(self.cos.dtype)
        mask = None if self.separator is None else document_mask(tokens, self.separator)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for block in self.model.layers:
            x = block(x, cos, sin, lam, mask)
        return self.model.norm(x)

    def side(self, tokens: Tensor, lam: float) -> Side:
        """Hidden states and the head that turns them into logits."""
        head = self.model.embed_tokens.weight if self.arch.tied else self.lm_head.weight
        return Side(self.hidden(tokens, lam), head, self.dtype)

    def forward(
        self, tokens: Tensor, targets: Tensor, lam: float = 0.0, mix: Mix = Mix(), teacher: Optional[Side] = None
    ) -> tuple[Tensor, Tensor]:
        """The summed loss, and the sums of cross entropy and divergence (float64, no gradient)."""
        return head_loss(self.side(tokens, lam), teacher, targets, mix)
