"""Writes gemma.json and gemma.bin of the Rust trainer's tests: loss and gradients of a tiny Gemma 3 by transformers.

    pip install transformers
    python python/tests/make_gemma_golden.py crates/train/tests/golden

Nothing of this package computes the model; of the quantized case only the effective weights come from it. gemma.json
holds the configuration as transformers saves it, gemma.bin per case the gradients as float32, in the order of the
tensors listed. Parameters come from the generator of make_golden.py.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from make_golden import draws
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from sherry_torch.methods import Quantizer

BATCH, LENGTH, SEED, IGNORED = 2, 11, 3, -100
CASES = [("none", 0.0), ("sherry", 0.3)]  # method, lambda
# Six frequencies that turn within eleven positions, differently in layers with a window of four.
CONFIG = Gemma3TextConfig(
    vocab_size=17, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    head_dim=6, query_pre_attn_scalar=9, max_position_embeddings=64, sliding_window=4, tie_word_embeddings=True,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"], attn_implementation="eager",
    rope_parameters={
        "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0},
    },
    bos_token_id=None, eos_token_id=None, pad_token_id=None,
)  # fmt: skip
PARTS = [
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_norm", "self_attn.k_norm",
    "self_attn.o_proj", "post_attention_layernorm", "pre_feedforward_layernorm", "mlp.gate_proj", "mlp.up_proj",
    "mlp.down_proj", "post_feedforward_layernorm",
]  # fmt: skip
NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{part}.weight" for i in range(CONFIG.num_hidden_layers) for part in PARTS),
    "model.norm.weight",
]


def gradients(method, lam, tokens, targets):
    """The mean loss and the gradients of all latent weights."""
    model = Gemma3ForCausalLM(CONFIG).float()
    params, numbers = dict(model.named_parameters()), draws(SEED)
    assert sorted(params) == sorted(NAMES)
    with torch.no_grad():
        for name in NAMES:
            x = torch.tensor([next(numbers) for _ in range(params[name].numel())]).view(params[name].shape)
            w = x / 8 if "norm" in name else x / 4
            params[name].copy_(Quantizer(method).effective(w, None, None, lam) if "_proj" in name else w)
    logits = model(input_ids=tokens, use_cache=False).logits
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    loss.backward()
    through = 1.0 if method == "none" else 1.0 + lam
    return loss.item(), [params[name].grad * (through if "_proj" in name else 1.0) for name in NAMES]


def main(folder):
    torch.manual_seed(1)
    torch.set_num_threads(1)
    sequences = torch.randint(0, CONFIG.vocab_size, (BATCH, LENGTH + 1))
    tokens, targets = sequences[:, :-1], sequences[:, 1:].clone()
    targets[1, -2:] = IGNORED
    cases, blob = [], b""
    for method, lam in CASES:
        loss, grads = gradients(method, lam, tokens, targets)
        cases.append(dict(method=method, arenas=lam, loss=loss))
        blob += b"".join(grad.numpy().tobytes() for grad in grads)
    with tempfile.TemporaryDirectory() as saved:
        Gemma3ForCausalLM(CONFIG).save_pretrained(saved)
        config = json.loads((Path(saved) / "config.json").read_text())
    report = dict(config=config, tensors=NAMES, tokens=tokens.tolist(), targets=targets.tolist(), cases=cases)
    (folder / "gemma.json").write_text(json.dumps(report))
    (folder / "gemma.bin").write_bytes(blob)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
