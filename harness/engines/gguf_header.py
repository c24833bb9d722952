"""What a GGUF file says about itself, read with the standard library only.

The file is treated as hostile: every count and length is checked against the file's size before
anything is allocated. harness.quant.gguf makes and changes such files.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import SubjectError, nearest

__all__ = ["FLOATS", "TYPES", "Header", "TensorInfo", "bits_per_weight", "file_type", "read_header"]

# ggml type id -> (name, elements per block, bytes per block); ggml.h, ggml-common.h
TYPES: dict[int, tuple[str, int, int]] = {
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
FLOATS = frozenset({"F32", "F16", "BF16", "F64"})

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


# --- reading -----------------------------------------------------------------------------------


class _Reader:
    """Reads little-endian fields and never more than the file holds."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file, self.path, self.size = file, path, size
        self.position = 0
        self.elements = 0

    def fail(self, why: str) -> SubjectError:
        return SubjectError(
            f"{self.path}: not a usable GGUF file: {why} (at byte {self.position} of {self.size}); fetch or build the file again"
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
    if kind not in TYPES:
        raise reader.fail(f"tensor {name!r} has the unknown type {kind}")
    type_name, block, block_bytes = TYPES[kind]
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
