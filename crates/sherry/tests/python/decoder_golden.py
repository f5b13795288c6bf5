"""Writes ../golden/decoder.json: logits of one tiny random model per family, computed in float64 by the formulas of
the published implementations (transformers' modeling_llama, modeling_qwen3, modeling_hunyuan_v1_dense,
modeling_gemma3), independently of the Rust code. Needs numpy only.

    python3 crates/sherry/tests/python/decoder_golden.py
"""

import json
import math
import pathlib

import numpy as np

SEED = 20260107


class SplitMix:
    """The generator of crates/sherry/src/model/synthetic.rs."""

    def __init__(self, seed):
        self.state = seed

    def units(self, count):
        steps = np.arange(1, count + 1, dtype=np.uint64)
        gamma = np.uint64(0x9E3779B97F4A7C15)
        with np.errstate(over="ignore"):
            z = np.uint64(self.state) + steps * gamma
            self.state = int(z[-1])
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
        return (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)


def weights(names, plus_one):
    """names: list of (name, shape). Matrices get the variance 1/in, norms lie around 1 (or 0), biases around 0."""
    random, tensors = SplitMix(SEED), {}
    for name, shape in names:
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            center, spread = 0.0, 1.0
        elif len(shape) == 2:
            center, spread = 0.0, np.sqrt(np.float32(3.0) / np.float32(shape[1]))
        elif name.endswith(".bias") or plus_one:
            center, spread = 0.0, 0.3
        else:
            center, spread = 1.0, 0.3
        unit = random.units(int(np.prod(shape)))
        values = np.float32(center) + np.float32(spread) * (np.float32(2) * unit - np.float32(1))
        tensors[name] = values.reshape(shape).astype(np.float64)
    return tensors


def rms_norm(x, w, eps, plus_one=False):
    y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    return y * (1.0 + w) if plus_one else y * w


def rotate_half(x):
    half = x.shape[-1] // 2
    return np.concatenate([-x[..., half:], x[..., :half]], axis=-1)


def rope(x, inv_freq):
    """x: heads, tokens, head_dim"""
    angle = np.arange(x.shape[1])[:, None] * inv_freq[None, :]
    angle = np.concatenate([angle, angle], axis=-1)
    return x * np.cos(angle) + rotate_half(x) * np.sin(angle)


def inverse_frequencies(theta, dim):
    return 1.0 / theta ** (np.arange(0, dim, 2) / dim)


def llama3_frequencies(inv_freq, scaling):
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    old = scaling["original_max_position_embeddings"]
    out = []
    for f in inv_freq:
        wavelength = 2 * math.pi / f
        if wavelength < old / high:
            out.append(f)
        elif wavelength > old / low:
            out.append(f / factor)
        else:
            smooth = (old / wavelength - low) / (high - low)
            out.append((1 - smooth) * f / factor + smooth * f)
    return np.array(out)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention(q, k, v, scale, window=None):
    """q: heads, tokens, d; k, v: kv_heads, tokens, d. Returns tokens, heads * d."""
    groups = q.shape[0] // k.shape[0]
    k, v = np.repeat(k, groups, axis=0), np.repeat(v, groups, axis=0)
    tokens = q.shape[1]
    i, j = np.arange(tokens)[:, None], np.arange(tokens)[None, :]
    allowed = j <= i
    if window is not None:
        allowed &= j > i - window
    scores = np.where(allowed, np.einsum("htd,hsd->hts", q, k) * scale, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    return np.einsum("hts,hsd->thd", scores, v).reshape(tokens, -1)


def layout(config, extra):
    """Names and shapes in file order. extra(layer): {position: (suffix, shape)} lists by place."""
    h, f, d = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    names = [("model.embed_tokens.weight", (config["vocab_size"], h))]
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        names.append((p + "input_layernorm.weight", (h,)))
        names += [(p + f"self_attn.{n}_proj.weight", s) for n, s in [("q", (q, h)), ("k", (kv, h)), ("v", (kv, h)), ("o", (h, q))]]
        if config.get("attention_bias"):
            names += [(p + f"self_attn.{n}_proj.bias", (s,)) for n, s in [("q", q), ("k", kv), ("v", kv), ("o", h)]]
        names += [(p + f"self_attn.{n}.weight", (d,)) for n in extra["qk_norm"]]
        names += [(p + f"{n}.weight", (h,)) for n in extra["before_mlp"]]
        names += [(p + "mlp.gate_proj.weight", (f, h)), (p + "mlp.up_proj.weight", (f, h)), (p + "mlp.down_proj.weight", (h, f))]
        names += [(p + f"{n}.weight", (h,)) for n in extra["after_mlp"]]
    names.append(("model.norm.weight", (h,)))
    if not config["tie_word_embeddings"]:
        names.append(("lm_head.weight", (config["vocab_size"], h)))
    return names


def heads(x, w, prefix, name, d):
    y = x @ w[f"{prefix}self_attn.{name}_proj.weight"].T + w.get(f"{prefix}self_attn.{name}_proj.bias", 0.0)
    return y.reshape(len(x), -1, d).transpose(1, 0, 2)


def out_proj(x, w, prefix):
    return x @ w[prefix + "self_attn.o_proj.weight"].T + w.get(prefix + "self_attn.o_proj.bias", 0.0)


def mlp(x, w, prefix, act):
    gate, up, down = (w[f"{prefix}mlp.{n}_proj.weight"] for n in ("gate", "up", "down"))
    return (act(x @ gate.T) * (x @ up.T)) @ down.T


def head(x, w):
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def llama(config, tokens):
    w = weights(layout(config, {"qk_norm": [], "before_mlp": ["post_attention_layernorm"], "after_mlp": []}), False)
    d, eps = config["head_dim"], config["rms_norm_eps"]
    inv_freq = llama3_frequencies(inverse_frequencies(config["rope_theta"], d), config["rope_scaling"])
    x = w["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        h = rms_norm(x, w[p + "input_layernorm.weight"], eps)
        q, k, v = (heads(h, w, p, n, d) for n in "qkv")
        x = x + out_proj(attention(rope(q, inv_freq), rope(k, inv_freq), v, d**-0.5), w, p)
        x = x + mlp(rms_norm(x, w[p + "post_attention_layernorm.weight"], eps), w, p, silu)
    return head(rms_norm(x, w["model.norm.weight"], eps), w)


def qwen3(config, tokens):
    extra = {"qk_norm": ["q_norm", "k_norm"], "before_mlp": ["post_attention_layernorm"], "after_mlp": []}
    w = weights(layout(config, extra), False)
    d, eps = config["head_dim"], config["rms_norm_eps"]
    inv_freq = inverse_frequencies(config["rope_theta"], d)
    x = w["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        h = rms_norm(x, w[p + "input_layernorm.weight"], eps)
        q, k, v = (heads(h, w, p, n, d) for n in "qkv")
        q = rope(rms_norm(q, w[p + "self_attn.q_norm.weight"], eps), inv_freq)
        k = rope(rms_norm(k, w[p + "self_attn.k_norm.weight"], eps), inv_freq)
        x = x + out_proj(attention(q, k, v, d**-0.5), w, p)
        x = x + mlp(rms_norm(x, w[p + "post_attention_layernorm.weight"], eps), w, p, silu)
    return head(rms_norm(x, w["model.norm.weight"], eps), w)


def hunyuan(config, tokens):
    extra = {"qk_norm": ["query_layernorm", "key_layernorm"], "before_mlp": ["post_attention_layernorm"], "after_mlp": []}
    w = weights(layout(config, extra), False)
    d, eps = config["head_dim"], config["rms_norm_eps"]
    base = config["rope_theta"] * config["rope_scaling"]["alpha"] ** (d / (d - 2))
    inv_freq = inverse_frequencies(base, d)
    x = w["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        h = rms_norm(x, w[p + "input_layernorm.weight"], eps)
        q, k, v = (heads(h, w, p, n, d) for n in "qkv")
        q = rms_norm(rope(q, inv_freq), w[p + "self_attn.query_layernorm.weight"], eps)
        k = rms_norm(rope(k, inv_freq), w[p + "self_attn.key_layernorm.weight"], eps)
        x = x + out_proj(attention(q, k, v, d**-0.5), w, p)
        x = x + mlp(rms_norm(x, w[p + "post_attention_layernorm.weight"], eps), w, p, silu)
    return head(rms_norm(x, w["model.norm.weight"], eps), w)


def gemma3(config, tokens):
    extra = {
        "qk_norm": ["q_norm", "k_norm"],
        "before_mlp": ["post_attention_layernorm", "pre_feedforward_layernorm"],
        "after_mlp": ["post_feedforward_layernorm"],
    }
    w = weights(layout(config, extra), True)
    d, eps = config["head_dim"], config["rms_norm_eps"]
    norm = lambda x, name: rms_norm(x, w[name + ".weight"], eps, plus_one=True)
    globally = inverse_frequencies(config["rope_theta"], d) / config["rope_scaling"]["factor"]
    locally = inverse_frequencies(config["rope_local_base_freq"], d)
    x = w["model.embed_tokens.weight"][tokens] * math.sqrt(config["hidden_size"])
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        sliding = (i + 1) % config["sliding_window_pattern"] != 0
        inv_freq = locally if sliding else globally
        h = norm(x, p + "input_layernorm")
        q, k, v = (heads(h, w, p, n, d) for n in "qkv")
        q = rope(norm(q, p + "self_attn.q_norm"), inv_freq)
        k = rope(norm(k, p + "self_attn.k_norm"), inv_freq)
        scale = config["query_pre_attn_scalar"] ** -0.5
        h = attention(q, k, v, scale, config["sliding_window"] if sliding else None)
        x = x + norm(out_proj(h, w, p), p + "post_attention_layernorm")
        h = mlp(norm(x, p + "pre_feedforward_layernorm"), w, p, gelu_tanh)
        x = x + norm(h, p + "post_feedforward_layernorm")
    return head(norm(x, "model.norm"), w)


COMMON = {
    "vocab_size": 40, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
MODELS = [
    (llama, {
        "architectures": ["LlamaForCausalLM"], "rope_theta": 10000.0, "attention_bias": True,
        "tie_word_embeddings": False,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 16},
    }),
    (qwen3, {"architectures": ["Qwen3ForCausalLM"], "rope_theta": 1000000.0, "head_dim": 12}),
    (hunyuan, {
        "architectures": ["HunYuanDenseV1ForCausalLM"], "rope_theta": 10000.0,
        "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
    }),
    (gemma3, {
        "architectures": ["Gemma3ForCausalLM"], "rope_theta": 1000000.0, "rope_local_base_freq": 100.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "num_hidden_layers": 3, "sliding_window": 4,
        "sliding_window_pattern": 3, "query_pre_attn_scalar": 11, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
    }),
]


def main():
    cases = []
    for forward, fields in MODELS:
        config = COMMON | fields
        tokens = [(7 * i * i + 3 * i + 5) % config["vocab_size"] for i in range(11)]
        logits = forward(config, np.array(tokens))
        cases.append({"config": config, "tokens": tokens, "logits": [[round(float(x), 6) for x in row] for row in logits]})
    path = pathlib.Path(__file__).parent.parent / "golden" / "decoder.json"
    text = json.dumps({"seed": SEED, "cases": cases}, separators=(",", ":"))
    path.write_text(text.replace('{"config"', '\n{"config"') + "\n")


if __name__ == "__main__":
    main()
