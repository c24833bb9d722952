"""One tiny model for the whole session."""

from __future__ import annotations

import pytest

from suites.selftest import tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return tiny_model.build(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_gguf(tiny_folder, tmp_path_factory):
    pytest.importorskip("gguf")
    from harness.quant.convert import convert

    out = tmp_path_factory.mktemp("gguf") / "tiny-f32.gguf"
    convert(tiny_folder, out, dtype="f32")
    return out
