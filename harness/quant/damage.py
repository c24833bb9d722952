"""Damaging a model on purpose: the planted regressions that go through the whole path."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.engines.gguf_header import Header, TensorInfo, read_header
from harness.errors import SubjectError
from harness.quant.gguf import atomic, flush, need_gguf

__all__ = ["WRONG_TEMPLATE", "damage"]

WRONG_TEMPLATE = (
    "{% for message in messages %}### {{ message['role'] | upper }}\n{{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### RESPONSE\n{% endif %}"
)
_DAMAGES = (
    "noise-layer:<i>:<scale>", "noise-tensor:<name>:<scale>", "transpose-block:<name>:<size>", "zero-point:<name>:<groups>",
    "round-layer:<i>:<TYPE>", "shuffle-embedding", "wrong-template", "eos", "eos:<id>",
)  # fmt: skip

# The types that the gguf package can write; llama.cpp's k-quants it can only read.
_GRIDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
_GROUP, _STEPS = 32, 8  # weights that share a scale in Q4_0, and its steps from zero to the largest of them


def damage(src_f16_gguf: str | Path, out: str | Path, how: str, seed: int) -> None:
    """Writes a damaged copy of an unquantized GGUF file: a planted regression. Same seed, same file.

    ``how`` is one of

    - ``noise-layer:<i>:<scale>``: Gaussian noise of ``scale`` times each matrix's own standard
      deviation on all matrices of block i;
    - ``noise-tensor:<name>:<scale>``: the same on one tensor;
    - ``transpose-block:<name>:<size>``: a square of ``size`` rows and columns of one matrix transposed;
    - ``zero-point:<name>:<groups>``: ``groups`` of a matrix's groups of 32 weights, or ``all``, one step
      of their own 4-bit grid too high: what a wrong zero point does;
    - ``round-layer:<i>:<TYPE>``: all matrices of block i rounded to the values that a GGUF type of
      whole blocks (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0) can hold, and kept in the type of the file: what
      quantizing this block alone costs;
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
            return _noise(header, _matrices(header, int(rest[0])), float(rest[1]), seed), {}
        if kind == "noise-tensor" and len(rest) == 2:
            return _noise(header, {_matrix(header, rest[0]).name}, float(rest[1]), seed), {}
        if kind == "transpose-block" and len(rest) == 2:
            return _transpose(_matrix(header, rest[0]), int(rest[1])), {}
        if kind == "zero-point" and len(rest) == 2:
            return _shift(_matrix(header, rest[0]), rest[1], seed), {}
        if kind == "round-layer" and len(rest) == 2:
            return _round(header, int(rest[0]), rest[1]), {}
        if kind == "shuffle-embedding" and not rest:
            return _shuffle(header, seed), {}
        if kind == "wrong-template" and not rest:
            return _unchanged, {"tokenizer.chat_template": WRONG_TEMPLATE}
        if kind == "eos" and len(rest) < 2:
            return _unchanged, {"tokenizer.ggml.eos_token_id": _other_eos(header, int(rest[0]) if rest else None)}
    except ValueError as error:
        if isinstance(error, SubjectError):
            raise
    raise SubjectError(f"damage {how!r}; known: {', '.join(_DAMAGES)}")


def _unchanged(_index: int, _name: str, data: Any) -> Any:
    return data


def _noise(header: Header, names: set[str], scale: float, seed: int) -> _Change:
    import numpy as np

    if not (math.isfinite(scale) and scale > 0):
        raise SubjectError(f"{header.path}: the scale of the noise is {scale}, expected a positive number")

    def change(index: int, name: str, data: Any) -> Any:
        if name not in names:
            return data
        rng = np.random.default_rng([seed, index])
        weights = data.astype(np.float32)
        noisy = weights + rng.normal(0.0, scale * float(weights.std()), weights.shape).astype(np.float32)
        return np.clip(noisy, -65504, 65504).astype(data.dtype)

    return change


def _round(header: Header, block: int, kind: str) -> _Change:
    import gguf
    import numpy as np

    names = _matrices(header, block)
    if kind not in _GRIDS:
        raise SubjectError(f"round to {kind!r}; known: {', '.join(_GRIDS)}")
    grid = gguf.GGMLQuantizationType[kind]
    size = gguf.GGML_QUANT_SIZES[grid][0]
    torn = [t.name for t in header.tensors if t.name in names and t.shape[-1] % size]
    if torn:
        raise SubjectError(f"{header.path}: the rows of {torn[0]!r} do not divide into {kind} blocks of {size} weights")

    def change(_index: int, name: str, data: Any) -> Any:
        if name not in names:
            return data
        return gguf.quants.dequantize(gguf.quants.quantize(data.astype(np.float32), grid), grid).astype(data.dtype)

    return change


def _matrices(header: Header, block: int) -> set[str]:
    """The names of the block's matrices; SubjectError if there is none, or one is quantized already."""
    names = {t.name for t in header.tensors if t.name.startswith(f"blk.{block}.") and len(t.shape) == 2}
    if not names:
        raise SubjectError(f"{header.path}: no block {block} with matrices to disturb")
    _check_floats(header, names)
    return names


def _matrix(header: Header, name: str) -> TensorInfo:
    """The matrix of that name; SubjectError if there is none, or it is quantized already."""
    if len(header.tensor(name).shape) != 2:
        raise SubjectError(f"{header.path}: {name!r} of shape {header.tensor(name).shape} is no matrix")
    _check_floats(header, {name})
    return header.tensor(name)


def _transpose(matrix: TensorInfo, size: int) -> _Change:
    if not 1 < size <= min(matrix.shape):
        raise SubjectError(f"{matrix.name!r} of shape {matrix.shape} has no square of {size} rows, expected 2 to {min(matrix.shape)}")

    def change(_index: int, name: str, data: Any) -> Any:
        if name != matrix.name:
            return data
        turned = data.copy()
        turned[:size, :size] = data[:size, :size].T
        return turned

    return change


def _shift(matrix: TensorInfo, groups: str, seed: int) -> _Change:
    import numpy as np

    total = matrix.elements // _GROUP
    count = total if groups == "all" else int(groups)
    if matrix.shape[-1] % _GROUP or not 0 < count <= total:
        raise SubjectError(f"{matrix.name!r} of shape {matrix.shape} has no {count} groups of {_GROUP} weights, expected 1 to {total}")

    def change(_index: int, name: str, data: Any) -> Any:
        if name != matrix.name:
            return data
        weights = data.astype(np.float32).reshape(total, _GROUP)
        chosen = np.random.default_rng(seed).permutation(total)[:count]
        weights[chosen] += np.abs(weights[chosen]).max(axis=1, keepdims=True) / _STEPS
        return weights.reshape(data.shape).astype(data.dtype)

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
