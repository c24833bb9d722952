"""One tiny model for the whole session."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def tiny_builder() -> ModuleType:
    path = Path(__file__).parent.parent / "engines" / "tiny_model.py"
    spec = importlib.util.spec_from_file_location("tiny_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return tiny_builder().build(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_gguf(tiny_folder, tmp_path_factory):
    pytest.importorskip("gguf")
    from harness.quant.gguf import convert

    out = tmp_path_factory.mktemp("gguf") / "tiny-f32.gguf"
    convert(tiny_folder, out, dtype="f32")
    return out
