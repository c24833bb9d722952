"""One training as its recipe declares it, for claims that look into it: nothing of it is trained to the end here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import Measurement, Sample, provenance
from harness.engines.common import load_json
from harness.lifecycle.subjects import conversation, threads
from harness.train.invariants import parity
from harness.train.recipe import Recipe
from harness.train.rows import Row
from harness.train.trainer import versions
from harness.types import Subject

STEP = 1  # raised by hand when what harness/train/invariants measures changes


class Lesson:
    """Base, recipe and rows of the training that made the subject ``name``."""

    def __init__(self, bench: Any, name: str) -> None:
        self.bench, self.name = bench, name
        said = bench.training(name)
        self.start, self.recipe, self._set = said.start, said.recipe, said.rows
        self._said: dict[int, Any] = {}

    @property
    def base(self) -> Path:
        """The folder of the model that the training starts from."""
        return self.bench.path(self.start)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows it is trained on, each once."""
        return [([dict(asked)], answer["content"]) for asked, answer in (conversation(self._set, item) for item in self._set.items)]

    @cached_property
    def end(self) -> str:
        """The mark that the model writes when it has done."""
        return str(load_json(self.base / "tokenizer_config.json")["eos_token"])

    def by(self, method: str, **changes: Any) -> Recipe:
        """The recipe by another method."""
        return replace(self.recipe, method=method, **changes)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """What the claims speak about."""
        return (self.bench.subject(self.start),)

    def kept(self, what: str, inputs: Mapping[str, Any], maker: Callable[[], Any]) -> Any:
        """``maker()``, kept under the base, the recipe, the rows, the libraries and the machine."""
        shaped = {
            "step": STEP, "base": self.bench.subject(self.start).digest, "recipe": self.recipe.same(),
            "rows": self._set.digest, "versions": versions(), "threads": threads(),
            "gpu": provenance.machine()["gpu"],
        }  # fmt: skip
        return self.bench.cached(f"invariants-{what}", {**shaped, **inputs}, maker)

    def held(self, n: int) -> dict[str, Row]:
        """``n`` questions of the golden set, and the answers that the rows teach: none was trained on."""
        chosen = self.bench.golden(self.bench.settings.compare.primary)
        talks = {item["id"]: conversation(chosen, item) for item in chosen.items[:n]}
        return {name: ([dict(asked)], answer["content"]) for name, (asked, answer) in talks.items()}

    def unmerged(self, n: int) -> parity.Said:
        """What base and unmerged adapter say of these answers in float32; computed once a session."""
        if n not in self._said:
            self._said[n] = parity.unmerged(self.base, self.bench.trained(self.name).adapter, self.held(n))
        return self._said[n]

    def facts(self, metric: str, rows: list[dict[str, Any]], **conditions: Any) -> Measurement:
        """Rows of found and expected, or of values, as a measurement."""
        samples = tuple(
            Sample(row["name"], row["value"] if "value" in row else float(row["found"] == row["expected"]), detail=row) for row in rows
        )
        return Measurement(metric, samples, self.subjects, {"recipe": self.recipe.same(), **conditions})
