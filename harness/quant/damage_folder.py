"""Damaging a Hugging Face folder on purpose: the planted regressions of the engines that read folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.engines.common import TensorEntry, load_json, safetensors_entries
from harness.errors import SubjectError
from harness.quant.convert import FLOAT_CODES, widened
from harness.quant.damage import WRONG_TEMPLATE

__all__ = ["damage", "forge"]

_DAMAGES = ("noise-layer:<i>:<scale>", "wrong-template", "eos")


def damage(source: Path, out: Path, how: str, seed: int) -> None:
    """Copies an unquantized folder and damages the copy. Same seed, same bytes.

    ``how`` is ``noise-layer:<i>:<scale>`` (Gaussian noise of ``scale`` times each matrix's own standard
    deviation on all matrices of block i), ``wrong-template`` or ``eos`` (answers end at a digit). SubjectError
    for another kind, a block that does not exist, or a quantized source.
    """
    kind, *rest = how.split(":")
    _copy(source, out)
    if kind == "noise-layer" and len(rest) == 2 and rest[0].isdecimal():
        _drown(out, int(rest[0]), float(rest[1]), seed)
    elif kind == "wrong-template" and not rest:
        (out / "chat_template.jinja").write_text(WRONG_TEMPLATE, encoding="utf-8")
        _rewrite(out / "tokenizer_config.json", chat_template=WRONG_TEMPLATE)
    elif kind == "eos" and not rest:
        vocabulary = load_json(out / "tokenizer.json").get("model", {}).get("vocab")
        digit = vocabulary.get("1") if isinstance(vocabulary, dict) else None
        if not isinstance(digit, int):
            raise SubjectError(f"{source}: its tokenizer has no token '1' to end answers at; expected a BPE vocabulary")
        for name in ("config.json", "generation_config.json"):
            _rewrite(out / name, eos_token_id=digit)
        _rewrite(out / "tokenizer_config.json", eos_token="1")
    else:
        raise SubjectError(f"damage {how!r}; known for folders: {', '.join(_DAMAGES)}")


def forge(weights: Path, declared: Path, out: Path) -> None:
    """The files of ``weights`` under the quantization config of ``declared``: a build that is none."""
    _copy(weights, out)
    for name in ("quantize_config.json", "quant_config.json", "hf_quant_config.json"):
        if (declared / name).is_file():
            shutil.copyfile(declared / name, out / name)
    said = load_json(declared / "config.json").get("quantization_config")
    if said is not None:
        _rewrite(out / "config.json", quantization_config=said)


def _copy(source: Path, out: Path) -> None:
    for path in source.iterdir():
        if path.is_file() and path.name not in ("seal.json", "training.json"):  # of the store, and of the training
            shutil.copyfile(path, out / path.name)


def _rewrite(path: Path, **values: Any) -> None:
    said = load_json(path) if path.is_file() else {}
    path.write_text(json.dumps({**said, **values}, indent=1, ensure_ascii=False), encoding="utf-8")


def _drown(folder: Path, block: int, scale: float, seed: int) -> None:
    entries = safetensors_entries(folder)
    found = {n: e for n, e in entries.items() if f".layers.{block}." in n and len(e[2]) == 2}
    if not found or not scale > 0:
        raise SubjectError(f"{folder}: no block {block} to disturb, or scale {scale} is not positive")
    _check_floats(folder, found.items())
    for index, name in enumerate(sorted(found)):
        _add_noise(found[name], scale, [seed, block, index])


def _check_floats(folder: Path, tensors: Iterable[tuple[str, TensorEntry]]) -> None:
    for name, (_, kind, _, _) in tensors:
        if kind not in FLOAT_CODES:
            raise SubjectError(f"{folder}: tensor {name!r} is {kind}; damage an unquantized folder instead")


def _add_noise(entry: TensorEntry, scale: float, seed: list[int]) -> None:
    """Changes the tensor where it lies, in its own type."""
    import numpy as np

    path, kind, shape, offset = entry
    stored: Any = np.memmap(path, dtype=FLOAT_CODES[kind], mode="r+", offset=offset, shape=shape)
    values = widened(stored, kind).astype("<f4")
    noisy = values + np.random.default_rng(seed).normal(0.0, scale * float(values.std()), shape).astype("<f4")
    stored[...] = (noisy.view("<u4") >> 16).astype("<u2") if kind == "BF16" else np.clip(noisy, -65504, 65504).astype(FLOAT_CODES[kind])
    stored.flush()
