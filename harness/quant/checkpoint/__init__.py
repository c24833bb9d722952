"""Any checkpoint as subject: what its files declare, and what each of its tensors really is.

Read from the files, never through a producer's library. Folders of Hugging Face safetensors by
AutoGPTQ, gptqmodel, autoawq, llm-compressor (compressed-tensors), bitsandbytes, modelopt, FP8 and
mxfp4 exports, and GGUF files.

    scheme = read_scheme(path)          # what the files say
    facts = inventory(path)             # what is there, layer by layer, and whether that agrees
    bits_per_weight(facts)              # over the whole checkpoint, scales and zero points included
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.engines.common import TensorEntry, safetensors_entries, safetensors_file
from harness.engines.gguf_header import FLOATS, Header, read_header
from harness.errors import SubjectError
from harness.quant.checkpoint.declared import gguf_scheme, read_scheme, regular
from harness.quant.checkpoint.scheme import Scheme
from harness.quant.checkpoint.tensors import Found, Parts, examine, layers_of, nbytes
from harness.quant.gguf import recipe_of, tensor_fallbacks

__all__ = ["Scheme", "TensorFact", "bits_per_weight", "inventory", "read_scheme"]


@dataclass(frozen=True, slots=True)
class TensorFact:
    """One layer, or a tensor by itself: what is declared of it, what it is, and whether that agrees.

    ``kind`` is linear, embedding, norm, head or other. ``bytes`` counts the weights with their scales,
    zero points and indices, ``bits`` is that per weight. ``why`` names what contradicts, "" if nothing.
    """

    name: str
    kind: str
    declared: str
    found: str
    elements: int
    bytes: int
    bits: float
    expected_quantized: bool
    ok: bool
    why: str


def inventory(path: str | Path) -> list[TensorFact]:
    """What every layer of a folder or GGUF file is declared to be and is, in order of name.

    Scales, zero points and group indices of all layers are read in full, for finite scales, symmetric
    zero points and the order of groups; packed weights are measured, not decoded. Raises SubjectError
    for what cannot be read: no or only pickled weights, a truncated shard, two tensors in one place.
    """
    path = Path(path)
    if path.is_file():
        return _gguf_facts(read_header(path))
    scheme = read_scheme(path)
    return [_fact(name, parts, scheme) for name, parts in layers_of(_entries(path)).items()]


def bits_per_weight(facts: Sequence[TensorFact]) -> float:
    """Bytes in the files times 8 per weight, over the whole checkpoint. Raises SubjectError for none."""
    elements = sum(f.elements for f in facts)
    if not elements:
        raise SubjectError("no weights, so no bits per weight; expected the inventory of a model")
    return 8 * sum(f.bytes for f in facts) / elements


# --- folders -------------------------------------------------------------------------------------


def _entries(folder: Path) -> dict[str, TensorEntry]:
    """The tensors of a folder, by whatever name its one safetensors file or index goes."""
    files = sorted(folder.glob("*.safetensors"))
    if odd := next((f for f in files if not regular(f)), None):
        raise SubjectError(f"{odd}: not a file; expected safetensors weights")
    usual = folder / "model.safetensors"
    if usual in files or regular(folder / "model.safetensors.index.json"):
        entries = safetensors_entries(folder)
    elif len(files) == 1:  # AutoGPTQ wrote gptq_model-4bit-128g.safetensors
        entries = safetensors_file(files[0])
    elif not files and (pickled := sorted(f.name for end in ("bin", "pt", "pth", "ckpt") for f in folder.glob(f"*.{end}"))):
        raise SubjectError(f"{folder}: only pickled weights ({pickled[0]}), which are never loaded; save them as safetensors")
    else:
        raise SubjectError(f"{folder}: {len(files)} safetensors files and no index; expected model.safetensors, an index, or one file")
    if not entries:
        raise SubjectError(f"{folder}: no tensors; expected a model")
    _check_apart(entries)
    return entries


def _check_apart(entries: Mapping[str, TensorEntry]) -> None:
    """Raises SubjectError where two tensors share bytes: sizes would be counted twice."""
    last: tuple[Path | None, int, str] = (None, 0, "")
    for name, entry in sorted(entries.items(), key=lambda item: (item[1][0], item[1][3])):
        size = nbytes([entry])
        if size and entry[0] == last[0] and entry[3] < last[1]:
            raise SubjectError(f"{entry[0]}: tensors {last[2]!r} and {name!r} overlap; fetch or build the file again")
        if size:
            last = (entry[0], entry[3] + size, name)


def _fact(name: str, parts: Parts, scheme: Scheme) -> TensorFact:
    kind = _kind(name, parts)
    declared = scheme.for_layer(name, kind)
    found = examine(parts, declared)
    if kind == "head" and found.quantized and not scheme.ignores(name) and scheme.method in ("bitsandbytes", "fp8"):
        declared = scheme  # transformers converts the head where a list of layers to skip does not name it
    faults = _contradictions(name, kind, declared, found, scheme)
    size = nbytes(parts.values())
    return TensorFact(
        name=name,
        kind=kind,
        declared=_declared(name, declared, scheme),
        found=str(found),
        elements=found.elements,
        bytes=size,
        bits=8 * size / found.elements if found.elements else 0.0,
        expected_quantized=declared is not None,
        ok=not faults,
        why="; ".join(faults),
    )


def _declared(name: str, declared: Scheme | None, scheme: Scheme) -> str:
    if declared is not None:
        return str(declared)
    if scheme.method == "none":
        return scheme.weights
    return "left alone, as listed" if scheme.ignores(name) else "left alone"


def _contradictions(name: str, kind: str, declared: Scheme | None, found: Found, scheme: Scheme) -> list[str]:
    """What speaks against the declaration of one layer, in words; empty where nothing does."""
    where = Path(scheme.declared_in).name  # the folder is the subject's, and no path of a machine belongs in evidence
    if declared is None:
        if kind == "other" or not found.quantized:
            return list(found.faults) if found.quantized and kind != "other" else []
        cause = "listed among the layers left alone" if scheme.ignores(name) else f"nothing in {where} declares it"
        return [f"found {found}, expected 16 bits or more: {cause}", *found.faults]
    if not found.quantized:
        return [f"found {found.weights}, expected {declared} as {where} declares: not quantized", *found.faults]
    return [*_differences(declared, found), *found.faults]


def _differences(declared: Scheme, found: Found) -> Iterable[str]:
    if declared.weights != found.weights:
        yield f"found {found.weights}, declared {declared.weights}"
    if found.methods and declared.method not in found.methods:
        yield f"stored as by {' or '.join(found.methods)}, declared {declared.method}"
    block = declared.detail.get("block_size")
    if block and found.block is None and not found.faults:
        yield f"found no scales of blocks {block[0]}x{block[1]}"
    groups = [found.columns if g == -1 else g for g in (declared.group_size, found.group_size)]
    if groups[0] != groups[1] and declared.group_size is not None and not found.faults:
        yield f"found groups of {groups[1] or 'the whole tensor'}, declared {groups[0]}"
    if declared.zero_points and found.symmetric is None and found.methods:
        yield "declared asymmetric, but zero points are missing"
    elif declared.symmetric is False and found.symmetric:
        yield "declared asymmetric, but there are no zero points other than the midpoint"
    elif declared.symmetric and found.symmetric is False:
        yield "declared symmetric, but zero points differ from the midpoint"


# --- what a layer is for -------------------------------------------------------------------------

_HEADS = ("lm_head", "embed_out", "output")
_EMBEDDING = re.compile(r"embed|wte$|wpe$|^shared$")
_ROUTER = re.compile(r"router|^(shared_expert_)?gate$")  # of a mixture of experts: a class of its own, left alone


def _kind(name: str, parts: Parts) -> str:
    last = name.rpartition(".")[2].lower()
    shape = parts["weight"][2] if "weight" in parts else ()
    if last in _HEADS and (last != "output" or name == "output"):
        return "head"
    if not {"weight", "qweight", "weight_packed", "blocks"} & set(parts) and not (
        "" in parts and "expert" in name and len(parts[""][2]) > 2
    ):
        return "other"
    if _EMBEDDING.search(last):
        return "embedding"
    if len(shape) == 1 or "norm" in last:
        return "norm" if "norm" in last or last.startswith("ln") else "other"
    if {"weight"} == set(parts) and (_ROUTER.search(last) or "conv" in last or (len(shape) != 2 and "expert" not in name)):
        return "other"
    return "linear"


# --- GGUF ----------------------------------------------------------------------------------------


def _gguf_facts(header: Header) -> list[TensorFact]:
    """llama.cpp's own exceptions are ok and say why: a row length that forces another type."""
    scheme = gguf_scheme(header)
    floats = scheme.weights in FLOATS
    odd = {} if floats else {f.name: f for f in tensor_fallbacks(header, recipe_of(header))}
    facts = []
    for tensor in sorted(header.tensors, key=lambda t: t.name):
        stem = tensor.name.removesuffix(".weight")
        kind = _gguf_kind(stem, tensor.shape)
        expected = not floats and kind in ("linear", "head", "embedding") and tensor.name.endswith(".weight")
        fallback = odd.get(tensor.name) if expected else None
        why = fallback.why if fallback else ""
        if not expected and tensor.type not in FLOATS:
            why = f"found {tensor.type}, expected {scheme.weights if floats else 'a float'}"
        ok = fallback.excused if fallback else not why
        declared = scheme.weights if expected or floats else "left alone"
        bits = 8 * tensor.nbytes / tensor.elements
        facts.append(TensorFact(stem, kind, declared, tensor.type, tensor.elements, tensor.nbytes, bits, expected, ok, why))
    return facts


def _gguf_kind(stem: str, shape: tuple[int, ...]) -> str:
    if stem == "output":
        return "head"
    if stem == "token_embd":
        return "embedding"
    if "norm" in stem:
        return "norm"
    return "linear" if len(shape) > 1 else "other"
