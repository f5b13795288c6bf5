"""Small random models of the families that llama.cpp runs, in its ternary and binary types: are the logits the same, and the
weights? Needs numpy and safetensors, `sherry`, its example `llama_logits`, and llama-quantize and llama-perplexity of
llama.cpp (a new one: others lack Q1_0 and Q2_0).

    python3 bench/peers/graphs.py WORK TEXT target/release/sherry target/release/examples/llama_logits \\
        llama-quantize llama-perplexity

The last two may be commands of several words, such as `chroot ROOT llama-quantize`; WORK must have the same path there.
"""

import json
import pathlib
import shlex
import subprocess
import sys

import numpy as np
from safetensors.numpy import save_file

VOCAB, HIDDEN, FFN, LAYERS, HEADS, KV, HEAD = 512, 512, 1024, 4, 8, 4, 64
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
CASES = [
    # Class, type, weights that share a scale, binary, further fields
    ("Qwen3ForCausalLM", "f32", None, False, {}),
    ("Qwen3ForCausalLM", "f32", None, False, {"rope_scaling": YARN}),
    ("Qwen3ForCausalLM", "q2_0", 128, False, {}),
    ("Qwen3ForCausalLM", "q2_0", 128, False, {"rope_scaling": YARN}),
    ("Qwen3ForCausalLM", "q1_0", 128, True, {"rope_scaling": YARN}),
    ("LlamaForCausalLM", "tq2_0", 512, False, {}),
    ("LlamaForCausalLM", "tq1_0", 512, False, {}),
    ("HunYuanDenseV1ForCausalLM", "f32", None, False, {}),
    # Quantized by us; for llama.cpp, where no release has STQ1_0, the same weights as floats.
    ("HunYuanDenseV1ForCausalLM", "stq1_0", None, False, {}),
]
QK_NORMS = {"Qwen3ForCausalLM": ["q_norm", "k_norm"], "HunYuanDenseV1ForCausalLM": ["query_layernorm", "key_layernorm"]}
MODEL_TYPES = {"Qwen3ForCausalLM": "qwen3", "HunYuanDenseV1ForCausalLM": "hunyuan_v1_dense", "LlamaForCausalLM": "llama"}


def weights(group, binary, qk_norms):
    random = np.random.default_rng(7)
    tensors = {}

    def matrix(name, rows, cols, spread):
        w = random.normal(size=(rows, cols)).astype(np.float32) * spread / np.sqrt(cols)
        if group and "proj" in name:
            parts = w.reshape(-1, min(group, cols))
            scale = np.abs(parts).mean(axis=1, keepdims=True).astype(np.float16).astype(np.float32)
            codes = np.where(parts < 0, -1, 1) if binary else np.clip(np.rint(parts / scale), -1, 1)
            w = (codes * scale).reshape(rows, cols)
        tensors[name] = w.astype(np.float32)

    def norm(name, width):
        tensors[name] = (1 + 0.1 * random.normal(size=width)).astype(np.float32)

    matrix("model.embed_tokens.weight", VOCAB, HIDDEN, np.sqrt(HIDDEN))
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        norm(at + "input_layernorm.weight", HIDDEN)
        norm(at + "post_attention_layernorm.weight", HIDDEN)
        for name, rows, cols in [("q", HEADS * HEAD, HIDDEN), ("k", KV * HEAD, HIDDEN), ("v", KV * HEAD, HIDDEN),
                                 ("o", HIDDEN, HEADS * HEAD)]:
            matrix(at + f"self_attn.{name}_proj.weight", rows, cols, 1)
        for name in qk_norms:
            norm(at + f"self_attn.{name}.weight", HEAD)
        for name, rows, cols in [("gate", FFN, HIDDEN), ("up", FFN, HIDDEN), ("down", HIDDEN, FFN)]:
            matrix(at + f"mlp.{name}_proj.weight", rows, cols, 1)
    norm("model.norm.weight", HIDDEN)
    # Sharp enough that the first token is no accident.
    matrix("lm_head.weight", VOCAB, HIDDEN, 3)
    return tensors


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stdout[-1000:]} {done.stderr[-2000:]}")
    return done.stdout


def main():
    work, text, sherry, compare, quantize, perplexity = sys.argv[1:]
    work = pathlib.Path(work)
    work.mkdir(exist_ok=True)
    run(sherry, "tokenizer", str(work / "tokenizer"), text, "--vocab", str(VOCAB), "-q", "--force")
    for at, (architecture, ty, group, binary, fields) in enumerate(CASES):
        folder = work / f"{at}-{ty}"
        folder.mkdir(exist_ok=True)
        config = {
            "architectures": [architecture], "model_type": MODEL_TYPES[architecture], "vocab_size": VOCAB,
            "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "num_key_value_heads": KV, "head_dim": HEAD, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0, "tie_word_embeddings": False, "hidden_act": "silu",
        } | fields
        (folder / "config.json").write_text(json.dumps(config))
        save_file(weights(group, binary, QK_NORMS.get(architecture, [])), folder / "model.safetensors", metadata={"format": "pt"})
        for name in ["tokenizer.json", "tokenizer_config.json"]:
            (folder / name).write_bytes((work / "tokenizer" / name).read_bytes())
        ours, plain, theirs, logits = (work / f"{at}.{end}" for end in ["ours.gguf", "f32.gguf", "theirs.gguf", "kld"])
        if ty == "stq1_0":
            run(sherry, "quantize", str(folder), str(ours), "--embed", "f16", "-q", "--force")
            run(sherry, "convert", str(ours), str(theirs), "--dtype", "f32", "-q", "--force")
        else:
            run(sherry, "convert", str(folder), str(ours), "--dtype", ty, "--embed", "f16", "-q", "--force")
        run(*shlex.split(perplexity), "-m", str(theirs if ty == "stq1_0" else ours), "-f", text, "-c", "512", "--chunks", "4", "-t", "2", "-fa", "off", "-ctk", "f32", "-ctv", "f32",
            "--kl-divergence-base", str(logits))
        print(architecture, ty, "with YaRN" if fields else "without", run(compare, str(ours), str(logits)), sep="\n", flush=True)
        if group:
            run(sherry, "convert", str(folder), str(plain), "--dtype", "f32", "--embed", "f16", "-q", "--force")
            run(*shlex.split(quantize), "--token-embedding-type", "f16", "--output-tensor-type", "f16", str(plain),
                str(theirs), ty.upper())
            floats = []
            for path in [ours, theirs]:
                run(sherry, "convert", str(path), str(path.with_suffix("")), "--dtype", "f32", "-q", "--force")
                floats.append((path.with_suffix("") / "model.safetensors").read_bytes())
            print("the weights that llama-quantize makes are", "the same" if floats[0] == floats[1] else "OTHERS", flush=True)


if __name__ == "__main__":
    main()
