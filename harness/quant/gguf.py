"""GGUF files: read a header, convert from and to a Hugging Face folder, quantize, damage.

Reading a header needs the standard library only, and treats the file as hostile: every count and
length is checked against the file's size before anything is allocated. The rest imports numpy,
``gguf``, torch, transformers or ``llama_cpp`` inside the function that needs it.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import MissingNeed, StoreError, SubjectError, nearest

__all__ = [
    "Fallback",
    "Header",
    "TensorInfo",
    "allowed_types",
    "bits_per_weight",
    "convert",
    "damage",
    "dequantize",
    "file_type",
    "quantize",
    "read_header",
    "tensor_fallbacks",
]

# ggml type id -> (name, elements per block, bytes per block); ggml.h, ggml-common.h
_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
_FLOATS = frozenset({"F32", "F16", "BF16", "F64"})

# metadata value type id -> struct code; 8 is a string and 9 an array
_SCALARS: dict[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9

# A vocabulary of a million tokens with types, scores and merges stays below this; a hostile array
# of as many bytes as the file does not.
_MAX_ELEMENTS = 1 << 23
_MAX_HEADER_BYTES = 1 << 28
_MAX_DEPTH = 4

# general.file_type, the llama_ftype enum of llama.h
_FILE_TYPES: dict[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    30: "IQ4_XS", 32: "BF16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a GGUF file.

    ``shape`` is in the order of torch, (rows, columns), the reverse of the file's; the last entry
    is the row length that block quantization divides. ``offset`` counts bytes from the start of
    the file, ``nbytes`` is the tensor's size without padding.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself: metadata values as Python objects, arrays as tuples."""

    path: str
    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    size: int

    def tensor(self, name: str) -> TensorInfo:
        """The tensor of that name. Raises SubjectError if there is none."""
        for info in self.tensors:
            if info.name == name:
                return info
        raise SubjectError(f"{self.path}: no tensor {name!r}; {nearest(name, [t.name for t in self.tensors])}")


@dataclass(frozen=True, slots=True)
class Fallback:
    """A matrix whose type is not what the recipe asks for.

    ``excused`` is True where the row length leaves the quantizer no choice.
    """

    name: str
    wanted: str
    got: str
    why: str
    excused: bool


# --- reading -----------------------------------------------------------------------------------


class _Reader:
    """Reads little-endian fields and never more than the file holds."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file, self.path, self.size = file, path, size
        self.position = 0
        self.elements = 0

    def fail(self, why: str) -> SubjectError:
        return SubjectError(
            f"{self.path}: not a usable GGUF file: {why} (at byte {self.position} of {self.size}); "
            "fetch or build the file again"
        )

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.position:
            raise self.fail(f"{what} needs {count} bytes, {self.size - self.position} are left: the file is truncated")
        if self.position + count > _MAX_HEADER_BYTES:
            raise self.fail(f"{what} ends beyond {_MAX_HEADER_BYTES} bytes, larger than any real header")
        data = self.file.read(count)
        if len(data) != count:
            raise self.fail(f"{what}: expected {count} bytes, found {len(data)}: the file is truncated")
        self.position += count
        return data

    def number(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def string(self, what: str) -> str:
        return self.take(self.number("Q", f"length of {what}"), what).decode("utf-8", errors="replace")

    def name(self, what: str) -> str:
        text = self.string(what)
        if not text or "�" in text or "\0" in text:
            raise self.fail(f"{what} is {text[:40]!r}, expected UTF-8 text")
        return text

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind], what)
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self.array(what, depth)
        raise self.fail(f"{what} has the unknown value type {kind}, expected 0 to 12")

    def array(self, what: str, depth: int) -> tuple[Any, ...]:
        if depth >= _MAX_DEPTH:
            raise self.fail(f"{what} nests arrays more than {_MAX_DEPTH} deep")
        kind, count = self.number("I", f"element type of {what}"), self.number("Q", f"length of {what}")
        self.elements += count
        if self.elements > _MAX_ELEMENTS:
            raise self.fail(f"{what} brings the arrays to {self.elements} elements, more than {_MAX_ELEMENTS}")
        if kind in _SCALARS:
            code = f"<{count}{_SCALARS[kind]}"
            return struct.unpack(code, self.take(struct.calcsize(code), what))
        return tuple(self.value(kind, what, depth + 1) for _ in range(count))


def read_header(path: str | Path) -> Header:
    """Version, metadata and tensors of a GGUF file, with the standard library only.

    Raises SubjectError if the file is missing, not GGUF, of another version or byte order,
    truncated (a tensor that ends behind the file's end counts), or self-contradictory.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _parse(_Reader(file, path, os.fstat(file.fileno()).st_size))
    except OSError as error:
        raise SubjectError(f"{path}: cannot be read ({error.strerror}); expected a GGUF file") from error


def _parse(reader: _Reader) -> Header:
    magic = reader.take(4, "magic")
    if magic != b"GGUF":
        raise reader.fail(f"it begins with {magic!r}, expected b'GGUF'")
    version = reader.number("I", "version")
    if version not in (2, 3):
        raise reader.fail(f"version {version}, expected 2 or 3 (a huge number means big-endian)")
    n_tensors, n_values = reader.number("Q", "tensor count"), reader.number("Q", "metadata count")
    left = reader.size - reader.position
    # the smallest metadata entry takes 13 bytes, the smallest tensor entry 32
    if n_values * 13 + n_tensors * 32 > left:
        raise reader.fail(f"{n_values} metadata values and {n_tensors} tensors do not fit into {left} bytes")
    metadata = _read_metadata(reader, n_values)
    entries = [_read_tensor(reader) for _ in range(n_tensors)]
    tensors = _place(reader, entries, _alignment(reader, metadata))
    return Header(str(reader.path), version, metadata, tensors, reader.size)


def _read_metadata(reader: _Reader, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = reader.name("a metadata key")
        if key in metadata:
            raise reader.fail(f"metadata key {key!r} occurs twice")
        metadata[key] = reader.value(reader.number("I", f"type of {key!r}"), f"value of {key!r}")
    return metadata


def _read_tensor(reader: _Reader) -> TensorInfo:
    """One entry of the tensor table, its offset still relative to the data section."""
    name = reader.name("a tensor name")
    n_dims = reader.number("I", f"dimension count of {name!r}")
    if not 1 <= n_dims <= 4:
        raise reader.fail(f"tensor {name!r} has {n_dims} dimensions, expected 1 to 4")
    shape = tuple(reader.number("Q", f"shape of {name!r}") for _ in range(n_dims))
    kind = reader.number("I", f"type of {name!r}")
    offset = reader.number("Q", f"offset of {name!r}")
    if kind not in _TYPES:
        raise reader.fail(f"tensor {name!r} has the unknown type {kind}")
    type_name, block, block_bytes = _TYPES[kind]
    if 0 in shape or shape[0] % block:
        raise reader.fail(f"tensor {name!r} of type {type_name} has shape {shape}, rows must be multiples of {block}")
    nbytes = math.prod(shape) // block * block_bytes
    return TensorInfo(name, shape[::-1], type_name, offset, nbytes)


def _alignment(reader: _Reader, metadata: Mapping[str, Any]) -> int:
    value = metadata.get("general.alignment", 32)
    if not isinstance(value, int) or not 1 <= value <= 1 << 20 or value & (value - 1):
        raise reader.fail(f"general.alignment is {str(value)[:40]!r}, expected a power of two")
    return value


def _place(reader: _Reader, entries: list[TensorInfo], alignment: int) -> tuple[TensorInfo, ...]:
    """Absolute offsets; checks that tensors are inside the file, aligned, apart and named once."""
    start = -(-reader.position // alignment) * alignment
    tensors = tuple(TensorInfo(t.name, t.shape, t.type, start + t.offset, t.nbytes) for t in entries)
    if len({t.name for t in tensors}) != len(tensors):
        raise reader.fail("two tensors share one name")
    last = max(tensors, key=lambda t: t.offset + t.nbytes, default=None)
    if last is not None and last.offset + last.nbytes > reader.size:
        raise SubjectError(
            f"{reader.path}: truncated: expected at least {last.offset + last.nbytes} bytes (tensor "
            f"{last.name!r} ends there), found {reader.size}; fetch or build the file again"
        )
    end = start
    for tensor in sorted(tensors, key=lambda t: t.offset):
        if (tensor.offset - start) % alignment or tensor.offset < end:
            raise reader.fail(f"tensor {tensor.name!r} is misaligned or overlaps its neighbour")
        end = tensor.offset + tensor.nbytes
    return tensors


def bits_per_weight(header: Header) -> float:
    """Mean bits per weight over all tensors. Raises SubjectError for a file without tensors."""
    weights = sum(t.elements for t in header.tensors)
    if not weights:
        raise SubjectError(f"{header.path}: no tensors, so no bits per weight; expected a model, not a vocabulary")
    return 8 * sum(t.nbytes for t in header.tensors) / weights


def file_type(header: Header) -> str:
    """The type the file calls itself by ("Q4_K_M"), "" if it does not say. Tensors may differ."""
    value = header.metadata.get("general.file_type")
    return "" if value is None else _FILE_TYPES.get(value, f"type {value}")


# --- what a recipe promises ----------------------------------------------------------------------

# recipe -> types of the blocks' matrices, types of the output matrix (the embedding where tied)
_RECIPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gguf-q8_0": (("Q8_0",), ("Q8_0",)),
    "gguf-q4_0": (("Q4_0",), ("Q6_K",)),
    "gguf-q4_k_m": (("Q4_K", "Q6_K"), ("Q6_K",)),
}
# what llama.cpp takes where a row is no multiple of 256: wanted type -> type taken
_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def _recipe(recipe: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if recipe not in _RECIPES:
        raise SubjectError(f"unknown GGUF recipe {recipe!r}; {nearest(recipe, list(_RECIPES))}")
    return _RECIPES[recipe]


def allowed_types(recipe: str) -> frozenset[str]:
    """The types that the recipe's matrices have where no row length forces another one."""
    blocks, output = _recipe(recipe)
    return frozenset(blocks + output)


def tensor_fallbacks(header: Header, recipe: str) -> list[Fallback]:
    """The matrices of ``header`` that do not carry a type of ``recipe``, and why.

    llama.cpp falls back without failing where a row is no multiple of 256 (Q4_K becomes Q5_0,
    Q6_K becomes Q8_0): such a file is larger than its name says. A matrix of another type though
    its rows allowed the recipe's is reported with ``excused`` False. Vectors (norms) are not
    looked at: llama.cpp keeps them in F32. Raises SubjectError for an unknown recipe.
    """
    blocks, output = _recipe(recipe)
    tied = not any(t.name == "output.weight" for t in header.tensors)
    found = []
    for tensor in header.tensors:
        if len(tensor.shape) < 2 or not tensor.name.endswith(".weight"):
            continue
        is_output = tensor.name == "output.weight" or (tied and tensor.name == "token_embd.weight")
        wanted = output if is_output else blocks
        if tensor.type not in wanted:
            found.append(_explain(tensor, wanted))
    return found


def _explain(tensor: TensorInfo, wanted: tuple[str, ...]) -> Fallback:
    sizes = {name: block for name, block, _ in _TYPES.values()}
    columns = tensor.shape[-1]
    for name in wanted:
        if _FALLBACKS.get(name) == tensor.type and columns % sizes[name]:
            why = f"row length {columns} is not a multiple of {sizes[name]}"
            return Fallback(tensor.name, name, tensor.type, why, True)
    if all(columns % sizes[name] for name in wanted) and (tensor.type in _FLOATS and columns % 32):
        why = f"row length {columns} is not a multiple of 32"
        return Fallback(tensor.name, wanted[0], tensor.type, why, True)
    left = "left unquantized" if tensor.type in _FLOATS else f"made {tensor.type}"
    why = f"{left} without cause: row length {columns} does not force it"
    return Fallback(tensor.name, wanted[0], tensor.type, why, False)


# --- GGUF -> Hugging Face ------------------------------------------------------------------------


def dequantize(gguf_path: str | Path, out_dir: str | Path) -> None:
    """Writes a GGUF model as a Hugging Face folder: bf16 safetensors, config, tokenizer, template.

    The folder is loadable without ``trust_remote_code`` and names no quantization any more.
    Raises SubjectError if the file is unusable or a tensor is not finite, MissingNeed without
    torch, transformers, accelerate or gguf.
    """
    header = read_header(gguf_path)
    out = Path(out_dir)
    source = Path(gguf_path).resolve()
    torch, transformers = _need_torch("dequantize a GGUF file")
    # transformers prints bars and a warning for every step; a person reads one line from us
    with _quiet(transformers):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(source.parent), gguf_file=source.name, dtype=torch.bfloat16, local_files_only=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(source.parent), gguf_file=source.name, local_files_only=True
        )
    _check_finite(model, torch, str(gguf_path))
    # save_pretrained refuses a model that calls itself quantized, which it no longer is
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("_model_name_or_path", "_name_or_path"):
        model.config.__dict__.pop(name, None)
    _fix_tokenizer(tokenizer, header)
    out.mkdir(parents=True, exist_ok=True)
    with _quiet(transformers):
        model.save_pretrained(out, safe_serialization=True)
        tokenizer.save_pretrained(out)


def _fix_tokenizer(tokenizer: Any, header: Header) -> None:
    """Undoes what transformers 5.17 makes of a GGUF tokenizer.

    It takes the first special token for the end, knows no padding token, splits digits by another
    rule than the file's, and on decoding replaces characters and removes blanks before commas.
    """
    tokens = header.metadata.get("tokenizer.ggml.tokens", ())
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")):
        index = header.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(index, int) and 0 <= index < len(tokens):
            setattr(tokenizer, name, tokens[index])
    template = header.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        tokenizer.chat_template = template
    length = header.metadata.get(f"{header.metadata.get('general.architecture')}.context_length")
    if isinstance(length, int):
        tokenizer.model_max_length = length
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.init_kwargs["clean_up_tokenization_spaces"] = False
    for name in ("is_local", "local_files_only", "legacy"):
        tokenizer.init_kwargs.pop(name, None)
    if header.metadata.get("tokenizer.ggml.pre") == "smollm":
        _split_like_smollm(tokenizer.backend_tokenizer)


def _split_like_smollm(backend: Any) -> None:
    from tokenizers import decoders, pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    backend.decoder = decoders.ByteLevel()


def _check_finite(model: Any, torch: Any, where: str) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise SubjectError(
                f"{where}: tensor {name!r} holds NaN or infinite values; the file is damaged, fetch or build it again"
            )


class _quiet:
    """Silences transformers' progress bars and warnings for the duration of a block."""

    def __init__(self, transformers: Any) -> None:
        self.logging = transformers.utils.logging

    def __enter__(self) -> None:
        self.level = self.logging.get_verbosity()
        self.bars = self.logging.is_progress_bar_enabled()
        self.logging.set_verbosity_error()
        self.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self.logging.set_verbosity(self.level)
        if self.bars:
            self.logging.enable_progress_bar()


def _need_torch(what: str) -> tuple[Any, Any]:
    try:
        import gguf  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        raise MissingNeed("hf", f"{error.name} is needed to {what}", _INSTALL_HF) from error
    return torch, transformers


_INSTALL_HF = 'python -m pip install "lifecycle-harness[hf]"'
_INSTALL_LLAMACPP = 'python -m pip install "lifecycle-harness[llamacpp]"'
