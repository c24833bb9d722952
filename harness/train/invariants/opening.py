"""The trainer of ``harness.train``, opened to be looked into: its model, its prepared rows, its collator, its step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, nearest
from harness.train.recipe import Recipe
from harness.train.trainer import build, libraries, load_base

__all__ = ["known_fault", "opened"]

Columns = Callable[[Any], Sequence[Mapping[str, Any]]]
"""tokenizer -> rows as trl takes them"""


@contextmanager
def opened(base: Path, columns: Columns, recipe: Recipe, *, adapter: bool = False, **changes: Any) -> Iterator[Any]:
    """The very trainer that ``harness.train.train`` runs, with ``changes`` to trl's configuration where a fault is planted.

    Raises MissingNeed without trl and peft.
    """
    libraries(recipe)
    tokenizer, model = load_base(base, recipe.dtype, quantized=recipe.method == "qlora")
    with tempfile.TemporaryDirectory(prefix="invariants-") as scratch:
        yield build(tokenizer, model, columns(tokenizer), recipe, scratch, adapter=adapter, **changes)


def known_fault(fault: str, known: Sequence[str], where: str) -> str:
    """``fault``, if it is one or none. Raises ConfigError."""
    if fault and fault not in known:
        raise ConfigError(f"fault {fault!r} of {where}; {nearest(fault, list(known))}")
    return fault
