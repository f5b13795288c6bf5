"""Opening, quantizing, converting and measuring whole models; files that are none."""

import json
import os

import numpy as np
import pytest

import sherry

PROMPT = "Once upon a time"
GREEDY = {"max_new_tokens": 16, "temperature": 0}


def test_files_folders_and_the_builtin_model_are_the_same(model, gguf, tmp_path):
    loaded = sherry.Model.from_pretrained(gguf)
    assert loaded.generate(PROMPT, **GREEDY).text == model.generate(PROMPT, **GREEDY).text
    assert os.fspath(loaded.path) == str(gguf) and model.path is None
    summary = sherry.convert(str(gguf), tmp_path / "folder")
    assert 1.25 < summary["linear_bits_per_weight"] < 1.4 and summary["tensors"]
    folder = sherry.Model.from_pretrained(tmp_path / "folder", precision="int8")
    # GGUF has the rows of queries and keys in another order, so sums are rounded otherwise.
    assert np.allclose(folder.logits(PROMPT), model.logits(PROMPT), atol=1e-3)
    assert folder.config["model_type"] == model.config["model_type"] == "llama"
    for attribute in ["bits_per_weight", "nbytes", "context", "isa"]:
        assert getattr(folder, attribute) == getattr(loaded, attribute)


def test_options_of_loading(gguf):
    texts = set()
    for options in [{"kv": "q8"}, {"kv": "f32"}, {"threads": 1}, {"head": "two-stage"}, {"isa": "scalar"}, {"sequences": 1}]:
        other = sherry.Model.builtin(context=64, **options)
        assert other.context == 64
        texts.add(other.generate(PROMPT, max_new_tokens=4, temperature=0).text)
    assert len(texts) <= 2
    exact = sherry.Model.builtin(precision="f32").logits(PROMPT)
    rounded = sherry.Model.builtin().logits(PROMPT)
    assert 0 < np.abs(exact - rounded).max() < 0.2 * np.abs(exact).max()
    for bad in [{"kv": "q2"}, {"threads": 0}, {"threads": 10**6}, {"context": 0}, {"context": 10**9}, {"head": "x"},
                {"isa": "mmx"}, {"sequences": 0}, {"precision": "f16"}]:
        with pytest.raises(ValueError):
            sherry.Model.builtin(**bad)
    for wrong in [{"threads": "2"}, {"unknown": 1}]:
        with pytest.raises(TypeError):
            sherry.Model.builtin(**wrong)


def test_progress_and_callbacks_that_raise(gguf, tmp_path):
    calls = []
    sherry.convert(gguf, tmp_path / "dense", dtype="f32")
    sherry.quantize_model(tmp_path / "dense", tmp_path / "q", format="ternary-2", progress=lambda *news: calls.append(news))
    assert calls and all(len(news) == 3 for news in calls)
    what, done, total = calls[-1]
    assert what == "quantize" and done == total > 0

    def fail(*news):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sherry.convert(gguf, tmp_path / "c", progress=fail)
    with pytest.raises(KeyError, match="mine"):
        sherry.Model.from_pretrained(gguf, progress=fail)
    with pytest.raises(TypeError):
        sherry.convert(gguf, tmp_path / "d", progress=5)


def test_quantizing_models(gguf, tmp_path):
    sherry.convert(gguf, tmp_path / "dense", dtype="f32", embed="f32")
    assert sherry.inspect(tmp_path / "dense")["sizes"]["linear layers"]["bits_per_weight"] == 32
    for name, options in {
        "row": {},
        "group": {"scale": "group", "group_size": 64},
        "stride": {"quad": "stride16"},
        "model.gguf": {"embed": "q6_k"},
        "two": {"format": "ternary-2", "projection": "twn"},
    }.items():
        summary = sherry.quantize_model(tmp_path / "dense", tmp_path / name, **options)
        report = sherry.inspect(tmp_path / name, tensors=True, verify=True)
        assert report["problems"] == [] and report["tensors"]
        bits = report["sizes"]["linear layers"]["bits_per_weight"]
        assert bits == pytest.approx(summary["linear_bits_per_weight"])
        assert sherry.Model.from_pretrained(tmp_path / name).generate(PROMPT, **GREEDY).text
    with pytest.raises(ValueError, match="twice"):
        sherry.quantize_model(gguf, tmp_path / "again")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        sherry.quantize_model(tmp_path / "dense", tmp_path / "row")
    sherry.quantize_model(tmp_path / "dense", tmp_path / "row", overwrite=True)
    for bad in [{"projection": "twn"}, {"group_size": 64}, {"format": "x"}, {"fallback": "q8_0"}, {"embed": "q3"},
                {"scale": "group", "group_size": 33}, {"quad": "stride16", "format": "ternary-2"}]:
        with pytest.raises(ValueError):
            sherry.quantize_model(tmp_path / "dense", tmp_path / "bad", **bad)
        assert not (tmp_path / "bad").exists()


def test_models_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="sherry pull smollm2-135m-instruct"):
        sherry.Model.from_pretrained("smollm2-135m-instruct")
    for path in [tmp_path / "x.gguf", str(tmp_path / "x"), "", "\0"]:
        for call in [sherry.Model.from_pretrained, sherry.inspect, lambda path: sherry.convert(path, tmp_path / "y")]:
            with pytest.raises((OSError, ValueError, sherry.SherryError)):
                call(path)
    for path in [None, 5, b"\xff", object()]:
        with pytest.raises((TypeError, OSError, sherry.SherryError)):
            sherry.Model.from_pretrained(path)


def test_hostile_files_never_panic(gguf, tmp_path):
    """Truncated and damaged models: an Exception each time, never a PanicException, which no `except Exception` sees."""
    whole = gguf.read_bytes()
    path = tmp_path / "hostile.gguf"
    cuts = [0, 1, 3, 4, 8, 23, 24, 100, 1000, 5000, 20000, 60000, len(whole) // 2, len(whole) - 1]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        for call in [sherry.Model.from_pretrained, sherry.inspect]:
            with pytest.raises(Exception):
                call(path)
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.integers(0, 40000, 8):
            damaged[at] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            sherry.Model.from_pretrained(path).generate(PROMPT, max_new_tokens=2)
        except Exception:
            pass
    sherry.convert(gguf, tmp_path / "folder")
    folder = tmp_path / "folder"
    for name in ["config.json", "tokenizer.json", "model.safetensors", "generation_config.json"]:
        whole = (folder / name).read_bytes()
        for content in [b"", b"{", b"[]", b"null", b"\xff\xfe", whole[: len(whole) // 2], b"[" * 100000]:
            (folder / name).write_bytes(content)
            try:
                sherry.Model.from_pretrained(folder).generate(PROMPT, max_new_tokens=2)
            except Exception:
                pass
        (folder / name).write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    for key in list(config):
        for value in [None, -1, 0, 2**63, "x", [], {}, 1e308]:
            (folder / "config.json").write_text(json.dumps({**config, key: value}))
            try:
                sherry.Model.from_pretrained(folder).generate(PROMPT, max_new_tokens=2)
            except Exception:
                pass


def test_hostile_templates_and_texts(gguf, tmp_path):
    sherry.convert(gguf, tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())
    for template in ["{{ 1 / 0 }}", "{% for i in range(10**9) %}{{ i }}{% endfor %}", "{{ messages[0] * 10**9 }}", "{% if",
                     "{{ ''.__class__ }}", "{{ raise_exception('no') }}", "{{ 'x' * 10**10 }}"]:
        config["chat_template"] = template
        (tmp_path / "folder" / "tokenizer_config.json").write_text(json.dumps(config))
        with pytest.raises(Exception):
            sherry.Model.from_pretrained(tmp_path / "folder").chat([{"role": "user", "content": "Hi"}], max_new_tokens=1)
    deep = []
    for _ in range(100000):
        deep = [deep]
    model = sherry.Model.builtin()
    for content in [deep, {"a": deep}, float("inf"), b"x", {1, 2}, 10**5000]:
        with pytest.raises(Exception):
            model.chat([{"role": "user", "content": content}], max_new_tokens=1)
    for text in ["\0" * 1000, "😀" * 200, "a" * 100000, "\n" * 3000]:
        try:
            model.generate(text, max_new_tokens=1)
        except sherry.SherryError as error:
            assert "context" in str(error)


def test_inspect_and_doctor(gguf):
    report = sherry.inspect(gguf, tensors=True, metadata=True, verify=True)
    assert report["problems"] == [] and report["metadata"]["general.architecture"] == '"llama"'
    assert report["tokenizer"]["tokens"] == 2048 and report["config"]["model_type"] == "llama"
    assert "tensors" not in sherry.inspect(gguf)
    machine = sherry.doctor()
    assert machine["isa"]["chosen"] == sherry.Model.builtin().isa
    assert machine["version"] == sherry.__version__
    assert all(rate > 0 for rate in machine["streaming_read_bytes_per_second"].values())


def test_evaluate(model, data, gguf):
    calls = []
    result = sherry.evaluate(
        model, tasks="arc_easy,piqa", limit=8, data=data / "eval", progress=lambda *news: calls.append(news)
    )
    assert set(result["tasks"]) == {"arc_easy", "piqa"} and calls
    for task in result["tasks"].values():
        assert task["items"] == 8 and 0 <= task["acc"]["value"] <= 1 and task["acc_norm"]["stderr"] >= 0
    for bad in [{"tasks": "nothing"}, {"limit": -1}, {"limit": 0}, {"data": "/nowhere"}]:
        with pytest.raises((ValueError, OSError, sherry.SherryError)):
            sherry.evaluate(model, **{"tasks": "piqa", "limit": 2, "data": data / "eval", **bad})
