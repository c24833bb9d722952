"""What a served model takes: weights, keys and values, and what the engine needs besides. On paper, from the files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness.engines.gguf_header import read_header
from harness.errors import SubjectError

__all__ = ["Shape", "shape", "tokens"]

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1}


class Shape(NamedTuple):
    """``weights`` in bytes as they lie in the file; layers, heads that keys are kept for, and numbers in one head."""

    weights: int
    layers: int
    kv_heads: int
    head_dim: int

    def kv_bytes(self, dtype: str = "bfloat16") -> int:
        """Of one token: 2 * layers * kv_heads * head_dim numbers. SmolLM2-135M in bfloat16: 23,040."""
        return 2 * self.layers * self.kv_heads * self.head_dim * _BYTES[dtype]


def shape(model: str | Path) -> Shape:
    """Of a Hugging Face folder or a GGUF file. SubjectError if it does not say."""
    path = Path(model)
    return _folder(path) if path.is_dir() else _file(path)


def tokens(cache_bytes: int, of: Shape, block: int, dtype: str = "bfloat16") -> int:
    """How many a cache of so many bytes holds, in whole blocks: 1 GiB of SmolLM2-135M in blocks of 128 is 46,592."""
    return cache_bytes // (of.kv_bytes(dtype) * block) * block


def _folder(path: Path) -> Shape:
    said: Mapping[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    try:
        heads = said["num_attention_heads"]
        dim = said.get("head_dim") or said["hidden_size"] // heads
        weights = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        return Shape(weights, said["num_hidden_layers"], said.get("num_key_value_heads") or heads, dim)
    except (KeyError, TypeError) as error:
        raise SubjectError(f"{path / 'config.json'}: no {error}; expected the layers and heads of a transformer") from error


def _file(path: Path) -> Shape:
    said = read_header(path).metadata
    kind = said.get("general.architecture", "")
    try:
        heads = int(said[f"{kind}.attention.head_count"])
        dim = int(said.get(f"{kind}.attention.key_length") or int(said[f"{kind}.embedding_length"]) // heads)
        kv_heads = int(said.get(f"{kind}.attention.head_count_kv") or heads)
        return Shape(path.stat().st_size, int(said[f"{kind}.block_count"]), kv_heads, dim)
    except (KeyError, TypeError, ValueError) as error:
        raise SubjectError(f"{path}: no {error} in its header; expected the layers and heads of a transformer") from error
