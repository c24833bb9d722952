"""Engines by name: opening one imports it, asking what is there does not.

Importing this package, or any module in it, imports no machine-learning library.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from harness import environments, provenance
from harness.engines.common import install, length_batches, token_digest
from harness.errors import EngineError, MissingNeed, nearest
from harness.types import Engine

__all__ = ["ENGINES", "available", "length_batches", "open_engine", "token_digest", "versions"]

ENGINES: Mapping[str, str] = {
    "hf": "harness.engines.hf:HF",
    "llamacpp": "harness.engines.llamacpp:LlamaCpp",
    "openai": "harness.engines.openai:OpenAI",
    "vllm": "harness.engines.vllm:VLLM",
    "fake": "harness.engines.fake:Fake",
}

# engine -> modules it imports, distributions whose versions are conditions of a measurement, install command
_NEEDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "hf": (
        ("torch", "transformers", "safetensors", "numpy"),
        ("torch", "transformers", "tokenizers", "safetensors", "peft", "numpy"),
        install("hf"),
    ),
    "llamacpp": (
        ("llama_cpp", "jinja2", "numpy"),
        ("llama-cpp-python", "Jinja2", "numpy"),
        install("llamacpp"),
    ),
    "openai": (("aiohttp",), ("aiohttp",), install("openai")),
    "fake": ((), (), "nothing to install"),
}

_APART = {"vllm": "vllm"}  # engine -> the environment that it runs in, as a process


def _needs(name: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    if name not in _NEEDS:
        raise EngineError(f"unknown engine {name!r}; {nearest(name, list(ENGINES))}")
    return _NEEDS[name]


def open_engine(name: str, location: str | Path, **options: Any) -> Engine:
    """The engine of that name on a folder, file, address or answers file; ``options`` are its own.

    Raises EngineError for an unknown name or option, MissingNeed if its packages are absent, and
    SubjectError if what ``location`` names cannot be loaded.
    """
    missing = available(name)
    if missing is not None:
        raise missing
    module, _, attribute = ENGINES[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    _check_options(name, kind, options)
    return cast(Engine, kind(location, **options))


def _check_options(name: str, kind: Any, options: Mapping[str, Any]) -> None:
    import inspect

    known = [p.name for p in inspect.signature(kind).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise EngineError(f"engine {name!r} has no option {option!r}; {nearest(option, known)}")


def available(name: str) -> MissingNeed | None:
    """None if the engine's packages are installed, else what is missing and how to get it.

    Nothing is imported. Raises EngineError for an unknown name.
    """
    if name in _APART:
        return environments.missing(_APART[name])
    modules, _, how = _needs(name)
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    return MissingNeed(name, f"not installed: {', '.join(absent)}", how) if absent else None


def versions(name: str) -> dict[str, str]:
    """Versions of the installed distributions behind an engine, without importing them.

    Raises MissingNeed for an engine whose environment is not installed.
    """
    if name in _APART:
        return environments.versions(_APART[name])
    return provenance.installed(_needs(name)[1])
