"""Damaging a model on purpose: the planted regressions that go through the whole path."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.engines.gguf_header import Header, read_header
from harness.errors import SubjectError
from harness.quant.gguf import atomic, flush, need_gguf

__all__ = ["damage"]

_WRONG_TEMPLATE = (
    "{% for message in messages %}### {{ message['role'] | upper }}\n{{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### RESPONSE\n{% endif %}"
)
_DAMAGES = ("noise-layer:<i>:<scale>", "shuffle-embedding", "wrong-template", "eos", "eos:<id>")


def damage(src_f16_gguf: str | Path, out: str | Path, how: str, seed: int) -> None:
    """Writes a damaged copy of an unquantized GGUF file: a planted regression. Same seed, same file.

    ``how`` is one of

    - ``noise-layer:<i>:<scale>``: Gaussian noise of ``scale`` times each matrix's own standard
      deviation on all matrices of block i;
    - ``shuffle-embedding``: the rows of the token embedding in another order (an embedding tied to
      the output moves both);
    - ``wrong-template``: a chat template with other role marks;
    - ``eos`` or ``eos:<id>``: another end-of-sequence id. llama.cpp also stops at tokens that are
      *named* like an end, so the default takes a digit: answers end where they hold one.

    Raises SubjectError for an unknown kind, a block or token that does not exist, or a quantized
    source.
    """
    gguf = need_gguf("damage a GGUF file")
    header = read_header(src_f16_gguf)
    change, values = _plan(header, how, seed)
    reader = gguf.GGUFReader(os.fspath(src_f16_gguf))
    with atomic(Path(out)) as scratch:
        writer = gguf.GGUFWriter(scratch, str(header.metadata.get("general.architecture")))
        _copy_metadata(gguf, reader, writer, values)
        for index, tensor in enumerate(reader.tensors):
            writer.add_tensor(tensor.name, change(index, tensor.name, tensor.data), raw_dtype=tensor.tensor_type)
        flush(writer)
        read_header(scratch)


_Change = Callable[[int, str, Any], Any]


def _plan(header: Header, how: str, seed: int) -> tuple[_Change, dict[str, Any]]:
    """What happens to each tensor, and the metadata values that change."""
    kind, *rest = how.split(":")
    try:
        if kind == "noise-layer" and len(rest) == 2:
            return _noise(header, int(rest[0]), float(rest[1]), seed), {}
        if kind == "shuffle-embedding" and not rest:
            return _shuffle(header, seed), {}
        if kind == "wrong-template" and not rest:
            return _unchanged, {"tokenizer.chat_template": _WRONG_TEMPLATE}
        if kind == "eos" and len(rest) < 2:
            return _unchanged, {"tokenizer.ggml.eos_token_id": _other_eos(header, int(rest[0]) if rest else None)}
    except ValueError as error:
        if isinstance(error, SubjectError):
            raise
    raise SubjectError(f"damage {how!r}; known: {', '.join(_DAMAGES)}")


def _unchanged(_index: int, _name: str, data: Any) -> Any:
    return data


def _noise(header: Header, block: int, scale: float, seed: int) -> _Change:
    import numpy as np

    prefix = f"blk.{block}."
    names = {t.name for t in header.tensors if t.name.startswith(prefix) and len(t.shape) == 2}
    if not names or not (math.isfinite(scale) and scale > 0):
        raise SubjectError(f"{header.path}: no block {block} to disturb, or scale {scale} is not positive")
    _check_floats(header, names)

    def change(index: int, name: str, data: Any) -> Any:
        if name not in names:
            return data
        rng = np.random.default_rng([seed, index])
        weights = data.astype(np.float32)
        noisy = weights + rng.normal(0.0, scale * float(weights.std()), weights.shape).astype(np.float32)
        return np.clip(noisy, -65504, 65504).astype(data.dtype)

    return change


def _shuffle(header: Header, seed: int) -> _Change:
    import numpy as np

    rows = header.tensor("token_embd.weight").shape[0]
    _check_floats(header, {"token_embd.weight"})

    def change(_index: int, name: str, data: Any) -> Any:
        return data[np.random.default_rng(seed).permutation(rows)] if name == "token_embd.weight" else data

    return change


def _check_floats(header: Header, names: set[str]) -> None:
    for tensor in header.tensors:
        if tensor.name in names and tensor.type not in ("F16", "F32"):
            raise SubjectError(f"{header.path}: tensor {tensor.name!r} is {tensor.type}; damage an F16 file instead")


def _other_eos(header: Header, index: int | None) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens", ())
    if index is None:
        index = next((tokens.index(text) for text in ("1", ".", ",") if text in tokens), -1)
    if not 0 <= index < len(tokens) or index == header.metadata.get("tokenizer.ggml.eos_token_id"):
        raise SubjectError(f"{header.path}: end-of-sequence id {index}: unchanged or outside the {len(tokens)} tokens")
    return index


def _copy_metadata(gguf: Any, reader: Any, writer: Any, values: Mapping[str, Any]) -> None:
    for key, field in reader.fields.items():
        # the writer adds the counts and the architecture itself
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        sub_kind = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, values.get(key, field.contents()), kind, sub_type=sub_kind)
    for key in values.keys() - reader.fields.keys():
        kind = gguf.GGUFValueType.STRING if isinstance(values[key], str) else gguf.GGUFValueType.UINT32
        writer.add_key_value(key, values[key], kind)
