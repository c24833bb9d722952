"""GGUF builds: what a recipe promises, quantizing, and what the files that came out hold.

numpy, ``gguf`` and ``llama_cpp`` are imported inside the functions. Reading a header needs the
standard library only: ``harness.engines.gguf_header``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engines.common import install, llama_cpp_quiet
from harness.engines.gguf_header import FLOATS, TYPES, Header, TensorInfo, file_type, read_header
from harness.errors import MissingNeed, StoreError, SubjectError, nearest

__all__ = ["KINDS", "Fallback", "allowed_types", "atomic", "flush", "need_gguf", "quantize", "recipe_of", "tensor_fallbacks"]


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


# --- what a recipe promises ----------------------------------------------------------------------

# recipe -> types of the blocks' matrices, types of the output matrix (the embedding where tied); llama.cpp's llama-quant.cpp.
# Recipes that need an importance matrix (IQ) are left out, and so is Q4_1: the base model lies on its grid.
_RECIPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gguf-q8_0": (("Q8_0",), ("Q8_0",)),
    "gguf-q6_k": (("Q6_K",), ("Q6_K",)),
    "gguf-q5_k_m": (("Q5_K", "Q6_K"), ("Q6_K",)),
    "gguf-q5_k_s": (("Q5_K",), ("Q6_K",)),
    "gguf-q5_0": (("Q5_0",), ("Q6_K",)),
    "gguf-q4_k_m": (("Q4_K", "Q6_K"), ("Q6_K",)),
    "gguf-q4_k_s": (("Q4_K", "Q5_K"), ("Q6_K",)),
    "gguf-q4_0": (("Q4_0",), ("Q6_K",)),
    "gguf-q3_k_l": (("Q3_K", "Q5_K"), ("Q6_K",)),
    "gguf-q3_k_m": (("Q3_K", "Q4_K", "Q5_K"), ("Q6_K",)),
    "gguf-q3_k_s": (("Q3_K", "Q4_K"), ("Q6_K",)),
    "gguf-q2_k": (("Q2_K", "Q3_K", "Q4_K"), ("Q6_K",)),
}
# What llama.cpp takes where a row is no multiple of 256: wanted type -> types taken (IQ4_NL by older versions).
# So Q2_K and Q3_K_S are one file but for the name where no row is: both are Q4_0.
_FALLBACKS = {"Q2_K": ("Q4_0", "IQ4_NL"), "Q3_K": ("Q4_0", "IQ4_NL"), "Q4_K": ("Q5_0",), "Q5_K": ("Q5_1",), "Q6_K": ("Q8_0",)}


def _recipe(recipe: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if recipe not in _RECIPES:
        raise SubjectError(f"unknown GGUF recipe {recipe!r}; {nearest(recipe, list(_RECIPES))}")
    return _RECIPES[recipe]


def recipe_of(header: Header, name: str = "") -> str | None:
    """The recipe a build goes by: its declared ``name`` if that is one, else what the file calls itself.

    The name comes first, so that an unquantized file posing as q8_0 is held to q8_0. None if neither
    is known here: then a matrix only has to be quantized at all.
    """
    return next((r for r in (name, f"gguf-{file_type(header).lower()}") if r in _RECIPES), None)


def allowed_types(recipe: str) -> frozenset[str]:
    """The types that the recipe's matrices have where no row length forces another one."""
    blocks, output = _recipe(recipe)
    return frozenset(blocks + output)


def tensor_fallbacks(header: Header, recipe: str | None) -> list[Fallback]:
    """The matrices of ``header`` that do not carry a type of ``recipe``, and why.

    llama.cpp falls back without failing where a row is no multiple of 256 (Q2_K becomes Q4_0, Q4_K
    Q5_0, Q6_K Q8_0): such a file is larger than its name says. A matrix of another type though
    its rows allowed the recipe's is reported with ``excused`` False. Vectors (norms) are not
    looked at: llama.cpp keeps them in F32. Without a recipe any quantized type will do. Raises
    SubjectError for an unknown recipe.
    """
    quantized = tuple(name for name, _, _ in TYPES.values() if name not in FLOATS)
    blocks, output = (quantized, quantized) if recipe is None else _recipe(recipe)
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
    sizes = {name: block for name, block, _ in TYPES.values()}
    columns = tensor.shape[-1]
    for name in wanted:
        if tensor.type in _FALLBACKS.get(name, ()) and columns % sizes[name]:
            why = f"row length {columns} is not a multiple of {sizes[name]}"
            return Fallback(tensor.name, name, tensor.type, why, True)
    if all(columns % sizes[name] for name in wanted) and (tensor.type in FLOATS and columns % 32):
        why = f"row length {columns} is not a multiple of 32"
        return Fallback(tensor.name, wanted[0], tensor.type, why, True)
    left = "left unquantized" if tensor.type in FLOATS else f"made {tensor.type}"
    why = f"{left} without cause: row length {columns} does not force it"
    return Fallback(tensor.name, wanted[0], tensor.type, why, False)


# --- quantizing ----------------------------------------------------------------------------------

# recipe without "gguf-" -> llama_ftype, and the name that the file then calls itself by
KINDS = {
    "q8_0": (7, "Q8_0"), "q6_k": (18, "Q6_K"), "q5_k_m": (17, "Q5_K_M"), "q5_k_s": (16, "Q5_K_S"), "q5_0": (8, "Q5_0"),
    "q4_k_m": (15, "Q4_K_M"), "q4_k_s": (14, "Q4_K_S"), "q4_0": (2, "Q4_0"),
    "q3_k_l": (13, "Q3_K_L"), "q3_k_m": (12, "Q3_K_M"), "q3_k_s": (11, "Q3_K_S"), "q2_k": (10, "Q2_K"),
}  # fmt: skip


def quantize(src: str | Path, out: str | Path, kind: str, *, threads: int = 2) -> None:
    """Quantizes an unquantized GGUF file in this process; ``kind`` is a key of KINDS.

    Where rows do not allow the recipe's type llama.cpp takes another one: see tensor_fallbacks.
    Raises SubjectError for an unusable or already quantized source, StoreError if llama.cpp fails
    or writes less than a whole file (a full disk), MissingNeed without llama-cpp-python.
    """
    if kind not in KINDS:
        raise SubjectError(f"GGUF quantization {kind!r}; {nearest(kind, list(KINDS))}")
    source, target = read_header(src), Path(out)
    quantized = [t for t in source.tensors if t.type not in FLOATS]
    if quantized:
        raise SubjectError(f"{src}: already quantized (tensor {quantized[0].name!r} is {quantized[0].type}); expected F16, BF16 or F32")
    with atomic(target) as scratch:
        _run_quantizer(Path(src), scratch, kind, threads)
        try:
            result = read_header(scratch)
        except SubjectError as error:
            raise StoreError(f"{out}: llama.cpp wrote a broken file, perhaps the disk is full: {error}") from error
        _check_quantized(source, result, kind, str(out))


def _run_quantizer(src: Path, out: Path, kind: str, threads: int) -> None:
    llama_cpp, errors = llama_cpp_quiet()
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = KINDS[kind][0]
    errors.clear()
    code = llama_cpp.llama_model_quantize(os.fsencode(src), os.fsencode(out), params)
    if code != 0:
        said = "; ".join(errors) or "it says nothing"
        raise StoreError(f"{out}: quantizing {src} to {kind} failed with code {code}; llama.cpp: {said}")


def _check_quantized(source: Header, result: Header, kind: str, out: str) -> None:
    before = {t.name: t.shape for t in source.tensors}
    after = {t.name: t.shape for t in result.tensors}
    if before != after:
        raise StoreError(f"{out}: tensors differ from the source's after quantizing; delete the file and try again")
    if file_type(result) != KINDS[kind][1]:
        raise StoreError(f"{out}: the file calls itself {file_type(result)!r}, expected {KINDS[kind][1]!r}")


# --- writing ----------------------------------------------------------------------------------


def need_gguf(what: str) -> Any:
    """The module ``gguf``; MissingNeed if it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise MissingNeed("gguf", f"{error.name} is needed to {what}", install("llamacpp")) from error
    return gguf


def flush(writer: Any) -> None:
    """Writes what a GGUFWriter holds, and closes it."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def atomic(out: Path) -> Iterator[Path]:
    """A scratch path beside ``out`` that takes its place only when the block ends well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        yield scratch
        os.replace(scratch, out)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        why = error.strerror or error
        raise StoreError(f"{out}: cannot be written ({why}); free some space and try again") from error
    finally:
        scratch.unlink(missing_ok=True)
