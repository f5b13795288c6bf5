"""What the tests share: they need the installed wheel, numpy and pytest."""

import os
from pathlib import Path

import pytest

import sherry


@pytest.fixture(scope="session")
def model():
    return sherry.Model.builtin(threads=2)


@pytest.fixture(scope="session")
def gguf():
    """The file of the model inside the package."""
    path = Path(__file__).parents[2] / "cli" / "model" / "sherry-tiny.gguf"
    if not path.exists():
        pytest.skip("the tests are not in a checkout of the repository")
    return path


@pytest.fixture(scope="session")
def data():
    folder = os.environ.get("SHERRY_DATA")
    folder = Path(folder) if folder else Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no test data (SHERRY_DATA)")
    return folder
