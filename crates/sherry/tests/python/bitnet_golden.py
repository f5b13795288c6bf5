"""Writes ../golden/bitnet.json: logits of transformers' own BitNet and of a LLaMA with its BitLinear layers, float32, for
tiny random models whose weights are those of crates/sherry/src/model/synthetic.rs. Needs torch, transformers, accelerate and
safetensors.

    TORCHDYNAMO_DISABLE=1 python3 crates/sherry/tests/python/bitnet_golden.py
"""

import json
import os
import pathlib
import tempfile

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the BitNet layers are compiled otherwise

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.integrations.bitnet import pack_weights

from decoder_golden import SEED, weights

SIZES = {
    "vocab_size": 60, "hidden_size": 64, "intermediate_size": 104, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
}
CASES = [
    ("BitNetForCausalLM", "bitnet", "autobitlinear", "online", True, {}),
    ("BitNetForCausalLM", "bitnet", "autobitlinear", "offline", True, {}),
    ("LlamaForCausalLM", "llama", "bitlinear", "offline", False, {}),
    ("LlamaForCausalLM", "llama", "bitlinear", "offline", False, {"use_rms_norm": True}),
    ("Qwen3ForCausalLM", "qwen3", "autobitlinear", "online", True, {"use_rms_norm": True, "rms_norm_eps": 1e-3}),
    ("BitNetForCausalLM", "bitnet", "autobitlinear", "offline", True, {"use_rms_norm": True, "rms_norm_eps": 1e-5}),
]


def names(model_type, tied, input_norms):
    """In the order of the Rust generator."""
    hidden, ffn, q, kv = 64, 104, 64, 32
    bitnet = model_type == "bitnet"
    yield "model.embed_tokens.weight", (60, hidden)
    for i in range(2):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", (hidden,)
        yield at + "self_attn.q_proj.weight", (q, hidden)
        yield at + "self_attn.k_proj.weight", (kv, hidden)
        yield at + "self_attn.v_proj.weight", (kv, hidden)
        yield at + "self_attn.o_proj.weight", (hidden, q)
        if model_type == "qwen3":
            yield at + "self_attn.q_norm.weight", (16,)
            yield at + "self_attn.k_norm.weight", (16,)
        if bitnet:
            yield at + "self_attn.attn_sub_norm.weight", (q,)
        if input_norms:
            for name, width in [("q", hidden), ("k", hidden), ("v", hidden), ("o", q)]:
                yield at + f"self_attn.{name}_proj.rms_norm.weight", (width,)
        yield at + "post_attention_layernorm.weight", (hidden,)
        yield at + "mlp.gate_proj.weight", (ffn, hidden)
        yield at + "mlp.up_proj.weight", (ffn, hidden)
        if bitnet:
            yield at + "mlp.ffn_sub_norm.weight", (ffn,)
        yield at + "mlp.down_proj.weight", (hidden, ffn)
        if input_norms:
            for name, width in [("gate", hidden), ("up", hidden), ("down", ffn)]:
                yield at + f"mlp.{name}_proj.rms_norm.weight", (width,)
    yield "model.norm.weight", (hidden,)
    if not tied:
        yield "lm_head.weight", (60, hidden)


def stored(tensors, linear_class, mode):
    """Tensors as the folder of a release holds them."""
    out = {}
    for name, values in tensors.items():
        values = torch.tensor(values, dtype=torch.float32)
        if not name.endswith("proj.weight") or mode == "online":
            out[name] = values
            continue
        mean = torch.tensor(np.float32(values.double().abs().mean().item())).clamp(min=1e-5)
        inverse = 1 / mean
        out[name] = pack_weights((values * inverse).round().clamp(-1, 1)).contiguous()
        out[name + "_scale"] = (mean if linear_class == "autobitlinear" else inverse).reshape(1)
    return out


def main():
    tokens = [3, 59, 12, 7, 7, 41, 0, 25, 33, 1, 18, 50]
    cases = []
    for architecture, model_type, linear_class, mode, tied, norms in CASES:
        bitnet = model_type == "bitnet"
        config = dict(SIZES, architectures=[architecture], model_type=model_type, tie_word_embeddings=tied,
                      hidden_act="relu2" if bitnet else "silu", bos_token_id=1, eos_token_id=2,
                      quantization_config={"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"],
                                           "linear_class": linear_class, "quantization_mode": mode} | norms)
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            tensors = stored(weights(list(names(model_type, tied, bool(norms))), False), linear_class, mode)
            save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
            (place / "config.json").write_text(json.dumps(config))
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            with torch.no_grad():
                logits = model(torch.tensor([tokens])).logits[0].double().numpy()
        rows = [[float(f"{x:.6g}") for x in row] for row in logits]
        cases.append({"config": config, "tokens": tokens, "logits": rows})
        print(architecture, linear_class, mode, norms, "largest logit", np.abs(logits).max())
    target = pathlib.Path(__file__).parent.parent / "golden" / "bitnet.json"
    target.write_text(json.dumps({"seed": SEED, "cases": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
