"""The guide's examples, as they stand."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def blocks(document, kind):
    path = ROOT / document
    if not path.exists():
        pytest.skip("the tests are not in a checkout of the repository")
    return re.findall(rf"^```{kind}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S)


def run(parts, namespace, document):
    for index, part in enumerate(parts):
        exec(compile(part, f"{document}, example {index + 1}", "exec"), namespace)


def test_the_guide(gguf, tmp_path, monkeypatch, capsys):
    shutil.copy(gguf, tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    parts = blocks("docs/python.md", "python")
    assert len(parts) >= 9
    run(parts, namespace, "docs/python.md")
    assert len(capsys.readouterr().out) > 1000
    hf = blocks("docs/python.md", "python hf")
    assert len(hf) == 1
    pytest.importorskip("torch", reason="no torch: without the example for transformers")
    pytest.importorskip("transformers", minversion="5", reason="no transformers 5")
    run(hf, namespace, "docs/python.md")
    assert float(capsys.readouterr().out.split()[-1]) < 1e-3


@pytest.mark.parametrize("document", ["README.md", "crates/py/README.md"])
def test_the_lines_of_the_readme_speak(document, capsys):
    parts = blocks(document, "python")
    assert parts
    run(parts, {}, document)
    assert len(capsys.readouterr().out) > 20
