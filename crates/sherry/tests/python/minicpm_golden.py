"""Writes ../golden/minicpm.json: logits of tiny random models with the factors of MiniCPM and with LongRoPE, float32, at a few
positions; weights are those of crates/sherry/src/model/synthetic.rs. transformers has no MiniCPM of the first generations, but
its Granite has the same factors under other names, so that is what computes them. Needs torch, transformers and safetensors.

    python3 crates/sherry/tests/python/minicpm_golden.py
"""

import json
import math
import pathlib
import tempfile

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from decoder_golden import SEED, weights

HIDDEN, LAYERS = 64, 3
SIZES = {
    "vocab_size": 40, "hidden_size": HIDDEN, "intermediate_size": 72, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
}
FACTORS = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16}
LONG = {
    "rope_type": "longrope", "original_max_position_embeddings": 48,
    "short_factor": [1.0, 1.02, 1.06, 1.1, 1.3, 1.7, 2.2, 2.9], "long_factor": [1.01, 1.2, 1.9, 3.1, 5.7, 9.4, 16.0, 23.5],
}
# Class, factors, scaling, tokens: within the trained context, and beyond it.
CASES = [
    ("MiniCPMForCausalLM", FACTORS, None, 24),
    ("MiniCPMForCausalLM", FACTORS, LONG, 48),
    ("MiniCPMForCausalLM", FACTORS, LONG, 96),
    ("LlamaForCausalLM", {}, LONG, 40),
    ("LlamaForCausalLM", {}, dict(LONG, attention_factor=1.7), 90),
]


def names():
    """In the order of the Rust generator."""
    ffn, q, kv = 72, 64, 32
    yield "model.embed_tokens.weight", (40, HIDDEN)
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", (HIDDEN,)
        yield at + "self_attn.q_proj.weight", (q, HIDDEN)
        yield at + "self_attn.k_proj.weight", (kv, HIDDEN)
        yield at + "self_attn.v_proj.weight", (kv, HIDDEN)
        yield at + "self_attn.o_proj.weight", (HIDDEN, q)
        yield at + "post_attention_layernorm.weight", (HIDDEN,)
        yield at + "mlp.gate_proj.weight", (ffn, HIDDEN)
        yield at + "mlp.up_proj.weight", (ffn, HIDDEN)
        yield at + "mlp.down_proj.weight", (HIDDEN, ffn)
    yield "model.norm.weight", (HIDDEN,)


def as_transformers_knows_it(config):
    """The same model under a class that transformers has."""
    if config["architectures"] == ["LlamaForCausalLM"]:
        return dict(config, model_type="llama")
    factors = {
        "embedding_multiplier": config["scale_emb"], "residual_multiplier": config["scale_depth"] / math.sqrt(LAYERS),
        "logits_scaling": HIDDEN / config["dim_model_base"], "attention_multiplier": 16**-0.5,
    }
    rest = {name: value for name, value in config.items() if name not in FACTORS}
    return dict(rest, architectures=["GraniteForCausalLM"], model_type="granite", **factors)


def main():
    cases = []
    for architecture, factors, scaling, length in CASES:
        config = dict(SIZES, architectures=[architecture], **factors)
        if scaling:
            config["rope_scaling"] = scaling
        tokens = [(i * i * 7 + i * 3 + 1) % 40 for i in range(length)]
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            tensors = {name: torch.tensor(w, dtype=torch.float32) for name, w in weights(list(names()), False).items()}
            save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
            (place / "config.json").write_text(json.dumps(as_transformers_knows_it(config)))
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            with torch.no_grad():
                logits = model(torch.tensor([tokens])).logits[0].double()
        positions = [0, 1, 7, length // 2, length - 1]
        rows = [[float(f"{x:.7g}") for x in logits[position].tolist()] for position in positions]
        cases.append({"config": config, "tokens": tokens, "positions": positions, "logits": rows})
        print(architecture, scaling and scaling["rope_type"], length, "largest logit", logits.abs().max().item())
    target = pathlib.Path(__file__).parent.parent / "golden" / "minicpm.json"
    target.write_text(json.dumps({"seed": SEED, "cases": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
