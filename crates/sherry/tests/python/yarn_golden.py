"""Writes ../golden/yarn.json: logits of transformers' own Qwen3 with YaRN, float32, at a few of 200 positions, for tiny random
models whose weights are those of crates/sherry/src/model/synthetic.rs. Needs torch, transformers and safetensors.

    python3 crates/sherry/tests/python/yarn_golden.py
"""

import json
import pathlib
import tempfile

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from decoder_golden import SEED, weights

SIZES = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 40, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
}
SCALINGS = [
    {"factor": 4.0, "original_max_position_embeddings": 64},
    {"factor": 2.5, "original_max_position_embeddings": 48, "beta_fast": 8.0, "beta_slow": 0.5},
    {"factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.5},
    {"factor": 8.0, "original_max_position_embeddings": 32, "mscale": 0.7, "mscale_all_dim": 1.3},
]
POSITIONS = [0, 1, 2, 31, 64, 127, 199]


def names():
    """In the order of the Rust generator."""
    hidden, ffn, q, kv, head = 32, 48, 64, 32, 32
    yield "model.embed_tokens.weight", (40, hidden)
    for i in range(2):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", (hidden,)
        yield at + "self_attn.q_proj.weight", (q, hidden)
        yield at + "self_attn.k_proj.weight", (kv, hidden)
        yield at + "self_attn.v_proj.weight", (kv, hidden)
        yield at + "self_attn.o_proj.weight", (hidden, q)
        yield at + "self_attn.q_norm.weight", (head,)
        yield at + "self_attn.k_norm.weight", (head,)
        yield at + "post_attention_layernorm.weight", (hidden,)
        yield at + "mlp.gate_proj.weight", (ffn, hidden)
        yield at + "mlp.up_proj.weight", (ffn, hidden)
        yield at + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)


def main():
    tokens = [(i * i * 7 + i * 3) % 40 for i in range(200)]
    cases = []
    for scaling in SCALINGS:
        config = dict(SIZES, rope_scaling=dict(scaling, rope_type="yarn"))
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            tensors = {name: torch.tensor(w, dtype=torch.float32) for name, w in weights(list(names()), False).items()}
            save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
            (place / "config.json").write_text(json.dumps(config))
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            with torch.no_grad():
                logits = model(torch.tensor([tokens])).logits[0].double()
        rows = [[float(f"{x:.7g}") for x in logits[position].tolist()] for position in POSITIONS]
        cases.append({"config": config, "logits": rows})
        print(scaling, "largest logit", logits.abs().max().item())
    golden = {"seed": SEED, "tokens": tokens, "positions": POSITIONS, "cases": cases}
    target = pathlib.Path(__file__).parent.parent / "golden" / "yarn.json"
    target.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
