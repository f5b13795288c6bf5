"""transformers beside our own engine in f32: the same models, from the same native folders."""

import json
import shutil

import numpy as np
import pytest

import sherry

torch = pytest.importorskip("torch", reason="no torch")
transformers = pytest.importorskip("transformers", reason="no transformers")
if int(transformers.__version__.split(".")[0]) < 5:
    pytest.skip(f"transformers {transformers.__version__}, not 5", allow_module_level=True)

import sherry.hf  # noqa: E402

SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
FAMILIES = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "llama-tied": lambda: transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SHAPE, query_pre_attn_scalar=64, sliding_window=16, layer_types=["sliding_attention", "full_attention"]
    ),
}


@pytest.fixture(scope="module")
def dense(gguf, tmp_path_factory):
    """Folders of dense models with random weights, by family."""
    folder = tmp_path_factory.mktemp("dense")
    sherry.convert(gguf, folder / "tiny")

    def make(family):
        target = folder / family
        if not target.exists():
            torch.manual_seed(5)
            model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]())
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    scale = 0.3 if "norm" in name else 2.0 / parameter.shape[-1] ** 0.5
                    parameter.copy_(torch.randn_like(parameter) * scale + (1.0 if "norm" in name else 0.0))
            model.save_pretrained(target)
            for name in ["tokenizer.json", "tokenizer_config.json"]:
                shutil.copy(folder / "tiny" / name, target)
        return target

    return make


def check(folder, dtype=torch.float32):
    """Logits within 1e-4, and the same greedy text."""
    ours = sherry.Model.from_pretrained(folder, precision="f32", kv="f32", threads=2)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    prompt = "Once upon a time there was a little girl"
    ids = ours.tokenizer.encode(prompt)
    logits = ours.logits(ids)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(logits - expected).max() < 1e-4
    assert np.abs(expected).max() > 0.5
    answer = ours.generate(ids, max_new_tokens=40, temperature=0)
    text = theirs.generate(torch.tensor([ids]), max_new_tokens=len(answer.tokens), do_sample=False, eos_token_id=None)
    assert text[0].tolist()[len(ids) :] == answer.tokens
    return theirs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": "group", "group_size": 128},
        {"quad": "stride16"},
        {"quad": "stride16", "scale": "group", "group_size": 256, "embed": "q6_k"},
        {"format": "ternary-1.67", "embed": "q4_k"},
        {"format": "ternary-2", "scale": "group", "group_size": 32, "embed": "f16"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "default",
)
def test_quantized_models(dense, tmp_path, family, options):
    sherry.quantize_model(dense(family), tmp_path / "model", **options)
    check(tmp_path / "model")


@pytest.mark.parametrize("family", ["llama-tied", "gemma3"])
@pytest.mark.parametrize("dtype", ["q8_0", "tq1_0", "tq2_0", "q2_0", "q1_0"])
def test_block_types_of_linear_layers(dense, tmp_path, family, dtype):
    source = dense(family)
    if dtype != "q8_0":
        # Types that take only what they hold exactly: signs, with zeros but for the binary type.
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "proj" in name:
                    zeros = torch.rand_like(parameter) < (0.0 if dtype == "q1_0" else 0.3)
                    parameter.copy_(torch.sign(parameter).masked_fill(zeros, 0.0) * 0.0625)
        ternary = tmp_path / "ternary"
        model.save_pretrained(ternary)
        for name in ["tokenizer.json", "tokenizer_config.json"]:
            shutil.copy(source / name, ternary)
        source = ternary
    sherry.convert(source, tmp_path / "model", dtype=dtype)
    types = {tensor["name"].rpartition(".")[2] for tensor in sherry.inspect(tmp_path / "model", tensors=True)["tensors"]}
    assert dtype in types
    check(tmp_path / "model")


def test_what_is_loaded_is_an_ordinary_model(dense, tmp_path):
    sherry.quantize_model(dense("llama"), tmp_path / "model")
    model = check(tmp_path / "model")
    assert not getattr(model, "is_quantized", False)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    model.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    for (name, parameter), other in zip(model.named_parameters(), again.parameters()):
        assert torch.equal(parameter, other), name
    loss = model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss
    loss.backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None
    half = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert half.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("field, value", [("version", 2), ("use_rms_norm", True), ("format", "sherry-2"), ("group_size", 7)])
def test_what_is_not_understood_is_refused(dense, tmp_path, field, value):
    sherry.quantize_model(dense("llama"), tmp_path / "model", scale="group", group_size=64)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["quantization_config"][field] = value
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(Exception):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
