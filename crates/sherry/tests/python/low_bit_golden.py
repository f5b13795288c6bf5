"""Writes ../golden/low_bit.json: logits of transformers' own Qwen3 (YaRN as in the Bonsai models), float32, whose matrices,
embedding and head among them, are binary or ternary with a scale per 128 weights; and checksums of the same matrices as GGUF
and MLX store them, packed here with numpy from the descriptions of the formats. Before rounding the weights are those of
crates/sherry/src/model/synthetic.rs. Needs torch, transformers and safetensors.

    python3 crates/sherry/tests/python/low_bit_golden.py
"""

import json
import pathlib
import tempfile

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from decoder_golden import SEED, weights

HIDDEN, FFN, HEAD, VOCAB, GROUP = 128, 256, 64, 64, 128
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": VOCAB, "hidden_size": HIDDEN,
    "intermediate_size": FFN, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": HEAD, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "tie_word_embeddings": False, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
}
TOKENS = [3, 59, 12, 7, 7, 41, 0, 25, 33, 1, 18, 50]


def names():
    """In the order of the Rust generator."""
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(2):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", (HIDDEN,)
        yield at + "self_attn.q_proj.weight", (2 * HEAD, HIDDEN)
        yield at + "self_attn.k_proj.weight", (HEAD, HIDDEN)
        yield at + "self_attn.v_proj.weight", (HEAD, HIDDEN)
        yield at + "self_attn.o_proj.weight", (HIDDEN, 2 * HEAD)
        yield at + "self_attn.q_norm.weight", (HEAD,)
        yield at + "self_attn.k_norm.weight", (HEAD,)
        yield at + "post_attention_layernorm.weight", (HIDDEN,)
        yield at + "mlp.gate_proj.weight", (FFN, HIDDEN)
        yield at + "mlp.up_proj.weight", (FFN, HIDDEN)
        yield at + "mlp.down_proj.weight", (HIDDEN, FFN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def rounded(values, bits):
    """Codes -1, 0, +1 and the scale of every group, which f16 holds."""
    flat = np.asarray(values, dtype=np.float32).reshape(-1)
    at = np.arange(flat.size)
    codes = np.where(flat < 0, -1, 1)
    if bits == 2:
        codes = np.where((at * 7 + at // 5) % 3 == 0, 0, codes)
    scales = (1 + np.arange(flat.size // GROUP) % 7) / 64
    return codes, scales.astype(np.float32)


def f16(values):
    return np.asarray(values, dtype="<f2").view(np.uint8).reshape(-1, 2)


def packed(codes, scales):
    """The bytes of the types of GGUF and of the codes of MLX, by name."""
    unsigned = (codes + 1).reshape(-1, GROUP)
    if not (codes == 0).any():
        signs = np.packbits((codes > 0).reshape(-1, GROUP), axis=1, bitorder="little")
        return {"Q1_0": np.hstack([f16(scales), signs]), "MLX": signs}
    four = unsigned.reshape(-1, 4) @ np.array([1, 4, 16, 64])
    two_bits = lambda group: four.astype(np.uint8).reshape(-1, group // 4)
    trits = []
    for group in unsigned:
        # Stages of 16 and 8 bytes of five digits, each at the distance of the stage, then 2 bytes of four.
        for start, width, digits in [(0, 16, 5), (80, 8, 5), (120, 2, 4)]:
            for m in range(width):
                number = 0
                for n in range(5):
                    number = number * 3 + (group[start + n * width + m] if n < digits else 0)
                trits.append(-(-number * 256 // 243))
    return {
        "Q2_0": np.hstack([f16(np.repeat(scales, 2)), two_bits(64)]),
        "PQ2_0": np.hstack([f16(scales), two_bits(128)]),
        "PTQ1_0": np.hstack([np.array(trits, dtype=np.uint8).reshape(-1, 26), f16(scales)]),
        "MLX": two_bits(128),
    }


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{value:016x}"


def main():
    cases = []
    for bits in [1, 2]:
        tensors, checksums = {}, {}
        for (name, shape), values in zip(names(), weights(list(names()), False).values(), strict=True):
            if len(shape) == 2:
                codes, scales = rounded(values, bits)
                for ty, data in packed(codes, scales).items():
                    checksums.setdefault(ty, {})[name] = fnv(data.astype(np.uint8).tobytes())
                values = (codes.reshape(-1, GROUP) * scales[:, None]).reshape(shape)
            tensors[name] = torch.tensor(np.asarray(values), dtype=torch.float32).reshape(shape)
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
            (place / "config.json").write_text(json.dumps(CONFIG))
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            with torch.no_grad():
                logits = model(torch.tensor([TOKENS])).logits[0].double()
        rows = [[float(f"{x:.7g}") for x in row] for row in logits.tolist()]
        cases.append({"bits": bits, "checksums": checksums, "logits": rows})
        print(bits, "bits, largest logit", logits.abs().max().item())
    golden = {"seed": SEED, "config": CONFIG, "tokens": TOKENS, "cases": cases}
    target = pathlib.Path(__file__).parent.parent / "golden" / "low_bit.json"
    target.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
