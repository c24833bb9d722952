"""Drills on the model of this lifecycle, kept by everything that shaped them; and how two runs are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any

from harness import Measurement, Sample, provenance
from harness.lifecycle.subjects import threads
from harness.train import drills
from harness.train.recipe import Recipe
from harness.train.rows import Row
from harness.train.trainer import versions
from suites.train import run_margins
from suites.train.lesson import Lesson

STEP = 1  # raised by hand when what harness/train/drills measures changes
_AT_ONCE = 4  # processes side by side: each holds up to 3 GB


def device() -> str:
    """Where trainings run on this machine."""
    return "cuda" if provenance.machine()["gpu"] else "cpu"


class Drilling:
    """Short trainings of one lesson, at the size of this run's tier."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        self.size = run_margins.SIZES.get(lesson.bench.tier.name, run_margins.SIZES["full"])

    @cached_property
    def _by_length(self) -> list[Row]:
        return sorted(self.lesson.rows, key=lambda row: (len(row[0][0]["content"]) + len(row[1]), row[1]))

    def rows(self, n: int) -> list[Row]:
        """``n`` short rows to train on."""
        return self._by_length[::2][:n]

    def held_out(self, n: int) -> list[Row]:
        """``n`` rows as short, none of them trained on in a drill."""
        return self._by_length[1::2][:n]

    def recipe(self, method: str = "lora", **changes: Any) -> Recipe:
        """The lesson's recipe for a drill's number of steps."""
        size = {"batch": self.size.batch, "accumulate": 1, "epochs": 1, "steps": self.size.steps, "save_every": 0}
        return self.lesson.by(method, **{**size, **changes})

    def run(self, asked: Sequence[drills.Drill]) -> dict[str, dict[str, Any]]:
        """What came of each drill, by its name."""
        machine = provenance.machine()
        inputs = {
            "step": STEP, "base": self.lesson.bench.subject(self.lesson.start).digest, "drills": [drill.to_dict() for drill in asked],
            "versions": versions(), "cpu": machine["cpu"], "gpu": machine["gpu"],
        }  # fmt: skip
        at_once = 1 if machine["gpu"] else min(_AT_ONCE, threads())

        def maker() -> list[dict[str, Any]]:
            return drills.run(self.lesson.base, asked, self.lesson.bench.progress, at_once=at_once)

        found = self.lesson.bench.cached("drills", inputs, maker)
        return {drill.name: result for drill, result in zip(asked, found, strict=True)}

    def same(self, metric: str, new: Mapping[str, Any], old: Mapping[str, Any], **conditions: Any) -> Measurement:
        """Two runs that should be one: the loss of each step, the rows that reached the model, the adapter, the optimizer."""
        return Measurement(metric, differences(new, old), self.lesson.subjects, {**_conditions(old), **conditions})

    def by_method(self, method: str) -> dict[str, dict[str, Any]]:
        """A training by ``method``, its twin, and what must differ from it or take more memory."""
        recipe, rows = self.recipe(method), self.rows(self.size.batch * self.size.steps)
        asked = [drills.Drill("first", recipe, rows), drills.Drill("twin", recipe, rows)]
        asked.append(drills.Drill("another seed", self.recipe(method, seed=recipe.seed + 1), rows))
        if self.size.every_fault:
            asked.append(drills.Drill("rows in another order", recipe, rows[::-1]))
            fat = self.recipe(method, batch=run_margins.FAT * self.size.batch, steps=1)
            asked.append(drills.Drill("fat", fat, self.rows(fat.batch)))
        return self.run(asked)


def differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> tuple[Sample, ...]:
    """A sample a step, the difference of its loss; and 0 or 1 for what has to be the same to the bit.

    Adapter and optimizer are compared by digest on a CPU only: elsewhere sums are taken in any order.
    """
    rows = []
    for step, (a, b) in enumerate(zip_longest(new["loss"], old["loss"]), 1):
        whole = a is not None and b is not None
        value = abs(a - b) if a is not None and b is not None else None
        rows.append(Sample(f"loss of step {step}", value, status="ok" if whole else "missing", detail={"new": a, "old": b}))
    for what in ("batches", *(("adapter", "optimizer") if device() == "cpu" else ())):
        detail = {} if what == "batches" else {"new": new[what], "old": old[what]}
        rows.append(Sample(what, float(new[what] != old[what] or not old[what]), detail=detail))
    return tuple(rows)


def _conditions(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("device", "threads", "versions", "outcome", "peak_bytes")} | {"curve": result["loss"]}
