"""Memory on paper: layers, heads and bytes, as the files say them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import SubjectError
from harness.serve import memory

pytestmark = pytest.mark.selftest

SMOL = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}


def folder(tmp_path, **config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    return tmp_path


def test_what_vllm_says_of_smollm2(tmp_path):
    """Its log: "CPU KV cache size: 46,592 tokens", of 1 GiB in blocks of 128."""
    shape = memory.shape(folder(tmp_path, **SMOL))
    assert shape == (1000, 30, 3, 64)
    assert shape.kv_bytes() == 23_040 and shape.kv_bytes("float32") == 46_080
    assert memory.tokens(1 << 30, shape, 128) == 46_592


def test_heads_that_are_not_grouped(tmp_path):
    said = {key: value for key, value in SMOL.items() if key != "num_key_value_heads"}
    assert memory.shape(folder(tmp_path, **said)).kv_bytes() == 3 * 23_040


def test_a_folder_that_does_not_say(tmp_path):
    with pytest.raises(SubjectError, match="num_hidden_layers"):
        memory.shape(folder(tmp_path, num_attention_heads=9, hidden_size=576))


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 80), st.integers(1, 64), st.sampled_from([32, 64, 128]), st.integers(0, 1 << 34), st.sampled_from([1, 16, 128]))
def test_a_cache_is_full_to_the_block(layers, heads, dim, size, block):
    shape = memory.Shape(0, layers, heads, dim)
    n, each = memory.tokens(size, shape, block), 2 * layers * heads * dim * 2
    assert n % block == 0 and n * each <= size < (n + block) * each
