"""What the tensors of a layer really are, from their names, types, shapes and values.

The layouts are those that the producers write and the engines load: autoawq's and AutoGPTQ's packed
linear layers, compressed-tensors' compressors, bitsandbytes' QuantState, modelopt's export, gpt-oss'
blocks. Scales, zero points and group indices are looked at in every layer, in full; the packed
weights themselves are not decoded. numpy is imported inside the functions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.engines.common import DTYPE_BITS, TensorEntry
from harness.quant.checkpoint.scheme import Scheme, describe

__all__ = ["Found", "Parts", "examine", "layers_of", "nbytes"]

Parts = Mapping[str, TensorEntry]
"""The tensors of a layer by what follows its name: "weight", "qweight", "weight.absmax" ..."""

FLOATS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_FP8 = {"F8_E4M3": "fp8_e4m3", "F8_E5M2": "fp8_e5m2", "F8_E4M3FNUZ": "fp8_e4m3", "F8_E5M2FNUZ": "fp8_e5m2"}
_EXPONENTS = ("U8", "F8_E8M0")  # a scale that is a power of two, stored as its exponent


@dataclass(frozen=True, slots=True)
class Found:
    """What a layer's tensors are. ``methods`` are those that store a layer so; empty: any.

    ``group_size`` as in Scheme. ``faults`` are contradictions among the tensors themselves.
    """

    weights: str
    elements: int
    columns: int = 0
    group_size: int | None = None
    symmetric: bool | None = None
    block: tuple[int, int] | None = None
    packing: str = ""
    methods: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def quantized(self) -> bool:
        """Whether the layer holds fewer than 16 bits per weight, or codes of any kind."""
        return self.weights not in FLOATS.values()

    def __str__(self) -> str:
        return describe(self.weights, self.group_size, self.symmetric, self.block) + (f", {self.packing}" if self.packing else "")


class _Unreadable(Exception):
    """The tensors form no layout known here; the message says why."""


# --- tensors -> layers ---------------------------------------------------------------------------

_PARTS = (
    "weight", "qweight", "qzeros", "scales", "g_idx",  # GPTQ, AWQ
    "weight_packed", "weight_scale", "weight_zero_point", "weight_global_scale", "weight_shape", "weight_g_idx",  # compressed-tensors
    "input_scale", "input_global_scale", "input_zero_point", "output_scale", "activation_scale",
    "weight_scale_inv", "weight_scale_2", "pre_quant_scale",  # FP8, modelopt
    "SCB", "weight_format", "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",  # bitsandbytes
)  # fmt: skip
_PART = re.compile(rf"(.+)\.({'|'.join(map(re.escape, _PARTS))}|weight\.quant_state\.\w+)", re.DOTALL)
_BLOCKS = re.compile(r"(.+)_(blocks|scales)", re.DOTALL)  # gpt-oss: all experts in one tensor


def layers_of(entries: Mapping[str, TensorEntry]) -> dict[str, dict[str, TensorEntry]]:
    """Tensors by layer, in order of name. A tensor that is no part of a layer is one by itself, its part ""."""
    layers: dict[str, dict[str, TensorEntry]] = {}
    for name in sorted(entries):
        match = _PART.fullmatch(name)
        if match is None and (blocks := _BLOCKS.fullmatch(name)) and {f"{blocks[1]}_blocks", f"{blocks[1]}_scales"} <= entries.keys():
            match = blocks
        layer, part = (match[1], match[2]) if match else (name, "")
        layers.setdefault(layer, {})[part] = entries[name]
    return layers


def nbytes(entries: Iterable[TensorEntry]) -> int:
    """Bytes of tensors in their files."""
    return sum(math.prod(shape) * DTYPE_BITS.get(kind, 0) // 8 for _, kind, shape, _ in entries)


def examine(parts: Parts, declared: Scheme | None) -> Found:
    """What the tensors of one layer are; ``declared`` settles what the layout leaves open, and nothing else."""
    main = next((parts[p] for p in ("weight", "qweight", "weight_packed", "blocks", "") if p in parts), None)
    try:
        for part, read in _LAYOUTS:
            if part in parts or (part.endswith(".") and any(p.startswith(part) for p in parts)):
                found = read(parts, declared)
                return replace(found, faults=(*found.faults, *_scale_faults(parts)))
        raise _Unreadable(f"{', '.join(sorted(parts))} without weights")
    except _Unreadable as error:
        elements = math.prod(main[2]) if main else sum(math.prod(e[2]) for e in parts.values())
        kind = main[1] if main else next(iter(parts.values()))[1]
        return Found(f"{kind} of no known layout", elements, faults=(str(error),))


# --- values --------------------------------------------------------------------------------------

_CODES = {8: "u1", 16: "<u2", 32: "<u4", 64: "<u8"}
# type -> the bits that are all set in what is infinite or no number
_NON_FINITE = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F80_0000, "F64": 0x7FF0 << 48, "F8_E5M2": 0x7C, "F8_E4M3": 0x7F}


def _raw(entry: TensorEntry) -> Any:
    """A tensor's values as unsigned integers, whatever they mean."""
    import numpy as np

    path, kind, shape, offset = entry
    code = _CODES.get(DTYPE_BITS.get(kind, 0))
    if code is None:
        raise _Unreadable(f"values of type {kind}")
    with path.open("rb") as file:
        values = np.fromfile(file, code, math.prod(shape), offset=offset)
    if values.size != math.prod(shape):
        raise _Unreadable(f"{path.name} ended while it was read")
    return values.reshape(shape)


def _scale_faults(parts: Parts) -> list[str]:
    import numpy as np

    faults = []
    for part in ("scales", "weight_scale", "weight_scale_inv", "weight_scale_2", "weight_global_scale", "SCB",
                 "weight.absmax", "weight.nested_absmax", "weight.quant_map"):  # fmt: skip
        if part not in parts:
            continue
        kind, values = parts[part][1], _raw(parts[part])
        # a byte is an exponent, whose last value is no number; bitsandbytes' absmax is a code
        mask = 0xFF if kind in _EXPONENTS and not part.startswith("weight.") else _NON_FINITE.get(kind)
        if mask is not None and (bad := int(np.count_nonzero((values & mask) == mask))):
            faults.append(f"{part}: {bad} of {values.size} values are NaN or infinite")
        elif kind in FLOATS and values.size and not np.any(values << 1):  # minus zero is zero
            faults.append(f"{part}: every value is 0")
    return faults


def _unpack(words: Any, bits: int, count: int) -> Any:
    """``count`` unsigned integers of ``bits`` bits from each row of 32-bit words, the lowest bits first."""
    import numpy as np

    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    return stream[:, : count * bits].reshape(words.shape[0], count, bits) @ (1 << np.arange(bits))


def _matrix(parts: Parts, part: str, *kinds: str) -> tuple[int, int]:
    if part not in parts:
        raise _Unreadable(f"{part} is missing")
    _, kind, shape, _ = parts[part]
    if len(shape) != 2 or 0 in shape or (kinds and kind not in kinds):
        raise _Unreadable(f"{part} is {kind} {list(shape)}, expected a matrix{' of ' + ' or '.join(kinds) if kinds else ''}")
    return shape[0], shape[1]


def _whole(amount: int, by: int, what: str) -> int:
    if by <= 0 or amount % by:
        raise _Unreadable(what)
    return amount // by


def _bits(amount: int, by: int, what: str) -> int:
    bits = _whole(amount, by, what)
    if not 2 <= bits <= 8:
        raise _Unreadable(f"{what}: {bits} bits, expected 2 to 8")
    return bits


def _groups(columns: int, groups: int, declared: Scheme | None) -> tuple[int | None, tuple[str, ...]]:
    """Group size from the number of groups, -1 for one group, None and a fault where they do not divide."""
    size = declared.group_size if declared else None
    if size and size > 0 and columns % size and -(-columns // size) == groups:
        return None, (f"group size {size} does not divide the {columns} columns; kernels refuse such a layer",)
    if groups == 1:
        return -1, ()
    if groups and columns % groups == 0:
        return columns // groups, ()
    return None, (f"{groups} groups do not divide the {columns} columns; kernels refuse such a layer",)


# --- GPTQ and AWQ --------------------------------------------------------------------------------


def _int32(parts: Parts, declared: Scheme | None) -> Found:
    """qweight: along the input (GPTQ), along the output (AWQ gemm), or row by row (AWQ gemv)."""
    rows, width = _matrix(parts, "qweight", "I32")
    groups, outs = _matrix(parts, "scales", "F16", "BF16", "F32")
    if rows == groups and "qzeros" in parts and parts["qzeros"][2][:1] == (rows,):
        return _awq_gemv(parts, declared, rows, width, outs)
    if width == outs:
        return _gptq(parts, declared, rows, groups, outs)
    bits = _bits(32 * width, outs, f"qweight {[rows, width]} packs neither rows nor columns of scales {[groups, outs]}")
    size, faults = _groups(rows, groups, declared)
    zeros, more = _zero_points(parts, "qzeros", bits, (groups, outs), 1 << (bits - 1))
    return Found(f"int{bits}", rows * outs, rows, size, zeros, None, f"{32 // bits} outputs per int32", ("awq",), (*faults, *more))


def _awq_gemv(parts: Parts, declared: Scheme | None, rows: int, width: int, padded: int) -> Found:
    """autoawq's gemv: scales and zero points are padded, so that only a declared group size can be checked."""
    zero_width = _matrix(parts, "qzeros", "I32")[1]
    bits = _bits(32 * zero_width, padded, f"qzeros of {zero_width} columns do not pack {padded} scales")
    columns = 32 * width // bits
    size = declared.group_size if declared else None
    size = columns if size == -1 else size
    if not size or columns % size or _gemv_width(columns // size, size) * 32 // bits != padded:
        fault = f"scales of {padded} columns are not those of {columns} weights in groups of {size or 'a size that is not declared'}"
        return Found(f"int{bits}", rows * columns, columns, None, None, None, "gemv", ("awq",), (fault,))
    values = _unpack(_raw(parts["qzeros"]), bits, columns // size)
    symmetric = bool((values == 1 << (bits - 1)).all())
    return Found(f"int{bits}", rows * columns, columns, size, symmetric, None, f"gemv, {32 // bits} inputs per int32", ("awq",))


def _gemv_width(groups: int, size: int) -> int:  # autoawq's calculate_zeros_width
    multiplier = {64: 2, 32: 4}.get(size, 1)
    return -(-max(1, -(-groups // 8)) // multiplier) * multiplier


def _gptq(parts: Parts, declared: Scheme | None, words: int, groups: int, outs: int) -> Found:
    bits, columns = _gptq_bits(parts, declared, words, outs)
    size, faults = _groups(columns, groups, declared)
    version = str(declared.detail.get("checkpoint_format", "gptq")) if declared else "gptq"
    middle = 1 << (bits - 1)
    v1 = version == "gptq"  # AutoGPTQ's first format stores each zero point less one
    zeros, more = _zero_points(parts, "qzeros", bits, (groups, outs), middle - v1)
    if zeros is False and declared and declared.symmetric and _zero_points(parts, "qzeros", bits, (groups, outs), middle - (not v1))[0]:
        other = "gptq_v2" if v1 else "gptq"
        more = (
            *more,
            f"zero points are those of symmetric weights in format {other}, declared is {version}: every weight is off by one step",
        )
    order, wrong = _order(parts, "g_idx", columns, groups, size, declared)
    packing = f"{32 / bits:.3g} inputs per int32{order}"
    return Found(f"int{bits}", columns * outs, columns, size, zeros, None, packing, ("gptq",), (*faults, *more, *wrong))


def _gptq_bits(parts: Parts, declared: Scheme | None, words: int, outs: int) -> tuple[int, int]:
    """Bits and columns: from the packed zero points, else from g_idx, else the declared bits."""
    listed = parts["g_idx"][2][0] if "g_idx" in parts and len(parts["g_idx"][2]) == 1 else None
    if "qzeros" in parts:
        width = _matrix(parts, "qzeros", "I32")[1]
        bits = _bits(32 * width, outs, f"qzeros of {width} columns do not pack {outs} zero points")
    elif listed:
        bits = _bits(32 * words, listed, f"qweight of {words} rows does not pack {listed} columns")
    else:
        bits = _bits(int(declared.bits or 0) if declared else 0, 1, "neither qzeros nor g_idx nor the configuration tell the bits")
    columns = _whole(32 * words, bits, f"qweight of {words} rows does not hold a whole number of {bits}-bit columns")
    if listed is not None and listed * bits != 32 * words:
        raise _Unreadable(
            f"qweight of {words} rows holds {columns} columns of {bits} bits (rows = columns x bits / 32), g_idx lists {listed}"
        )
    return bits, columns


def _zero_points(parts: Parts, part: str, bits: int, shape: tuple[int, int], middle: int) -> tuple[bool | None, tuple[str, ...]]:
    """Whether all zero points, packed along the last axis, are the middle; None if there are none, or none to be read."""
    if part not in parts:
        return None, ()
    rows, width = _matrix(parts, part, "I32")
    if (rows, width * 32) != (shape[0], shape[1] * bits):
        return None, (f"{part} is {[rows, width]}, expected {[shape[0], shape[1] * bits / 32]} for {bits} bits and {shape[0]} groups",)
    return bool((_unpack(_raw(parts[part]), bits, shape[1]) == middle).all()), ()


def _order(parts: Parts, part: str, columns: int, groups: int, size: int | None, declared: Scheme | None) -> tuple[str, tuple[str, ...]]:
    """What the group index of the columns does to them, in words, and what is wrong with it."""
    import numpy as np

    if part not in parts or size is None:
        return "", ()
    index = _raw(parts[part]).astype(np.uint32).view(np.int32).ravel()
    if part == "weight_g_idx" and (index == -1).all():  # compressed-tensors' word for none
        return "", ()
    if index.size != columns or index.min() < 0 or index.max() >= groups:
        span = f" from {index.min()} to {index.max()}" if index.size else ""
        return "", (f"{part}: {index.size} values{span}, expected {columns} in 0..{groups - 1}",)
    if np.array_equal(index, np.arange(columns) // (columns if size == -1 else size)):
        return "", ()
    if declared and declared.act_order:
        return ", columns reordered", ()
    fault = f"{part} is out of order: columns were reordered by activation, which is not declared (desc_act, actorder)"
    return ", columns reordered", (fault,)


# --- compressed-tensors --------------------------------------------------------------------------


def _packed(parts: Parts, declared: Scheme | None) -> Found:
    if parts["weight_packed"][1] == "U8":
        return _fp4(parts, "weight_packed", "weight_global_scale", ("compressed-tensors",))
    rows, width = _matrix(parts, "weight_packed", "I32")
    if "weight_shape" not in parts or math.prod(parts["weight_shape"][2]) != 2:
        raise _Unreadable("weight_shape is missing, or not two numbers")
    shape = [int(n) for n in _raw(parts["weight_shape"]).ravel()]
    columns = shape[1]
    bits = 32 * width // columns if columns > 0 else 0
    if shape[0] != rows or not 1 <= bits <= 8 or -(-columns * bits // 32) != width:
        raise _Unreadable(f"weight_packed {[rows, width]} does not hold weights of the shape {shape}")
    size, faults, groups = _scaled(parts, rows, columns, declared)
    symmetric, more = _packed_zeros(parts, bits, rows, groups)
    order, wrong = _order(parts, "weight_g_idx", columns, groups, size, declared)
    packing = f"{32 / bits:.3g} inputs per int32{order}"
    return Found(f"int{bits}", rows * columns, columns, size, symmetric, None, packing, ("compressed-tensors",), (*faults, *more, *wrong))


def _packed_zeros(parts: Parts, bits: int, rows: int, groups: int) -> tuple[bool, tuple[str, ...]]:
    """Zero points packed along the rows; whoever has none is symmetric."""
    if "weight_zero_point" not in parts:
        return True, ()
    if parts["weight_zero_point"][1] == "I8":
        return not _raw(parts["weight_zero_point"]).any(), ()
    height, width = _matrix(parts, "weight_zero_point", "I32")
    if (height, width) != (-(-rows * bits // 32), groups):
        return False, (f"weight_zero_point is {[height, width]}, expected {[-(-rows * bits // 32), groups]}",)
    return bool((_unpack(_raw(parts["weight_zero_point"]).T, bits, rows) == 1 << (bits - 1)).all()), ()


def _scaled(parts: Parts, rows: int, columns: int, declared: Scheme | None) -> tuple[int | None, tuple[str, ...], int]:
    """Group size, faults and number of groups of weight_scale: one, one per row, or (rows, groups)."""
    if "weight_scale" not in parts:
        raise _Unreadable("weight_scale is missing")
    shape = parts["weight_scale"][2]
    if math.prod(shape) == 1 and rows > 1:
        return None, (), 1
    if shape[:1] != (rows,) or len(shape) > 2:
        raise _Unreadable(f"weight_scale is {list(shape)}, expected one per tensor, per row or per group of {rows} rows")
    groups = shape[1] if len(shape) == 2 else 1
    size, faults = _groups(columns, groups, declared)
    return size, faults, groups


# --- one byte, and four bits in bytes ------------------------------------------------------------


def _weight(parts: Parts, declared: Scheme | None) -> Found:
    """A tensor called weight: floats, or codes of one byte with a scale beside it."""
    _, kind, shape, _ = parts.get("weight") or parts[""]
    elements, columns = math.prod(shape), shape[-1] if shape else 1
    scale = next((p for p in ("weight_scale_inv", "weight_scale", "scale_inv") if p in parts), None)
    if kind in FLOATS:
        odd = sorted(set(parts) & {"weight_scale", "weight_scale_inv", "SCB", "weight_scale_2"})
        return Found(FLOATS[kind], elements, columns, faults=(f"{', '.join(odd)} beside a weight of {kind}",) if odd else ())
    if kind == "U8" and "weight_scale_2" in parts:
        return _fp4(parts, "weight", "weight_scale_2", ("modelopt",))
    if kind == "I8" and "SCB" in parts:
        return _int8_rows(parts)
    if scale is None:
        word = _FP8.get(kind, {"I8": "int8"}.get(kind, kind))
        return Found(word, elements, columns, faults=(f"weight is {kind} without a scale",) if len(shape) > 1 else ())
    rows, columns = _matrix(parts, "weight")
    methods = ("fp8",) if scale == "weight_scale_inv" else ("fp8", "compressed-tensors", "modelopt")
    if kind == "I8":
        size, faults, _ = _scaled(parts, rows, columns, declared)
        zeros = parts.get("weight_zero_point")
        symmetric = zeros is None or not _raw(zeros).any()
        bits = _bits_in_bytes(parts["weight"], declared)
        packing = "" if bits == 8 else "one per byte"
        return Found(f"int{bits}", elements, columns, size, symmetric, None, packing, ("compressed-tensors",), faults)
    if kind not in _FP8:
        raise _Unreadable(f"weight is {kind} with {scale}")
    size, block, faults = _fp8_scale(parts[scale], rows, columns, declared)
    word = "mxfp8" if size == 32 and parts[scale][1] in _EXPONENTS else _FP8[kind]
    return Found(word, elements, columns, size, None, block, "", methods, faults)


def _bits_in_bytes(weight: TensorEntry, declared: Scheme | None) -> int:
    """Declared bits, where compressed-tensors kept fewer than 8 in bytes and the values are that small; else 8."""
    bits = int(declared.bits) if declared and declared.bits and declared.weights.startswith("int") else 8
    if bits >= 8:
        return 8
    values = _raw(weight).view("i1")
    return bits if values.min(initial=0) >= -(1 << (bits - 1)) and values.max(initial=0) < 1 << (bits - 1) else 8


def _fp8_scale(
    entry: TensorEntry, rows: int, columns: int, declared: Scheme | None
) -> tuple[int | None, tuple[int, int] | None, tuple[str, ...]]:
    """Group size or block, and faults, of a scale: one, one per row, (rows, groups) or (blocks down, blocks across)."""
    shape = entry[2]
    block = declared.detail.get("block_size") if declared else None
    if block and shape == (-(-rows // block[0]), -(-columns // block[1])):
        return None, block, ()
    if math.prod(shape) == 1:
        return None, None, ()
    if shape in ((rows,), (rows, 1)):
        return -1, None, ()
    if len(shape) == 2 and shape[0] == rows and columns % max(shape[1], 1) == 0:
        return columns // shape[1], None, ()
    wanted = f"blocks {block[0]}x{block[1]}" if block else "one per tensor, per row or per group"
    return None, None, (f"the scale is {list(shape)} for a weight of {[rows, columns]}, expected {wanted}",)


def _int8_rows(parts: Parts) -> Found:
    """bitsandbytes' LLM.int8(): SCB holds the largest magnitude of each row."""
    rows, columns = _matrix(parts, "weight", "I8")
    faults = () if parts["SCB"][2] == (rows,) else (f"SCB is {list(parts['SCB'][2])}, expected one per row, {[rows]}",)
    return Found("int8", rows * columns, columns, -1, True, None, "", ("bitsandbytes",), faults)


def _fp4(parts: Parts, weight: str, tensor_scale: str, methods: tuple[str, ...]) -> Found:
    """nvfp4 (fp8 scale per 16, one float per tensor) or mxfp4 (an exponent per 32), two weights per byte."""
    rows, width = _matrix(parts, weight, "U8")
    scaled, groups = _matrix(parts, "weight_scale", "F8_E4M3", *_EXPONENTS)
    columns = 2 * width
    size = _whole(columns, groups, f"weight_scale of {groups} columns does not divide {columns} columns")
    if scaled != rows:
        raise _Unreadable(f"weight_scale has {scaled} rows, {weight} {rows}")
    nv = parts["weight_scale"][1] == "F8_E4M3"
    want = 16 if nv else 32
    faults = [] if size == want else [f"groups of {size}, expected {want}"]
    if nv and tensor_scale not in parts:
        faults.append(f"{tensor_scale} is missing")
    return Found("nvfp4" if nv else "mxfp4", rows * columns, columns, size, None, None, "2 inputs per byte", methods, tuple(faults))


def _blocks(parts: Parts, declared: Scheme | None) -> Found:
    """gpt-oss' experts: blocks [..., groups, 16 bytes] and scales [..., groups]."""
    if "scales" not in parts:
        raise _Unreadable("scales are missing")
    (_, kind, shape, _), (_, scale_kind, scales, _) = parts["blocks"], parts["scales"]
    if kind != "U8" or scale_kind not in _EXPONENTS or len(shape) < 2 or shape[-1] != 16 or scales != shape[:-1]:
        raise _Unreadable(f"blocks are {kind} {list(shape)}, scales {scale_kind} {list(scales)}; expected U8 [..., n, 16] and [..., n]")
    return Found("mxfp4", 2 * math.prod(shape), 32 * shape[-2], 32, None, None, "2 per byte", ("mxfp4",))


def _four_bits(parts: Parts, declared: Scheme | None) -> Found:
    """bitsandbytes' nf4 and fp4: everything but the codes stands in a little JSON beside them."""
    state_part = next(p for p in parts if p.startswith("weight.quant_state."))
    state = _quant_state(parts[state_part])
    kind, size, elements = str(state["quant_type"]), int(state["blocksize"]), math.prod(state["shape"])
    faults = []
    if not state_part.endswith(f"__{kind}"):
        faults.append(f"{state_part} says {kind}")
    held = 2 * nbytes([parts["weight"]]) if "weight" in parts else 0
    if held - elements not in (0, 1):
        faults.append(f"weight holds {held} codes, {elements} weights are said")
    absmax = math.prod(parts["weight.absmax"][2]) if "weight.absmax" in parts else 0
    if absmax != -(-elements // size):
        faults.append(f"weight.absmax holds {absmax} scales, expected {-(-elements // size)} of {size} weights each")
    nested = "weight.nested_absmax" in parts
    if declared and nested != declared.detail.get("double_quant", nested):
        faults.append(f"double quantization is {'found' if nested else 'not found'}, declared is {'none' if nested else 'one'}")
    packing = "2 per byte" + (", double quantization" if nested else "")
    return Found(kind, elements, state["shape"][-1], size, None, None, packing, ("bitsandbytes",), tuple(faults))


def _quant_state(entry: TensorEntry) -> dict[str, Any]:
    if math.prod(entry[2]) > 65536:
        raise _Unreadable("quant_state is larger than any real one")
    try:
        state = json.loads(_raw(entry).tobytes())
        numbers = [*state["shape"], state["blocksize"]]
        if state["quant_type"] in ("nf4", "fp4") and state["shape"] and all(type(n) is int and 0 < n < 1 << 40 for n in numbers):
            return dict(state)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise _Unreadable("quant_state is not bitsandbytes' JSON of quant_type, blocksize and shape")


_LAYOUTS: tuple[tuple[str, Callable[[Parts, Scheme | None], Found]], ...] = (
    ("qweight", _int32),
    ("weight_packed", _packed),
    ("blocks", _blocks),
    ("weight.quant_state.", _four_bits),
    ("weight", _weight),
    ("", _weight),
)
