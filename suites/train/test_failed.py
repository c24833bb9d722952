"""T11: each failed experiment is kept: it was really run, it really failed, and why and what was changed is written."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest

from harness import Claim, Control, Measurement, Sample, identical
from harness.plugin import settings_of
from harness.train.drills import Drill
from suites.controls import FAILS, HOLDS
from suites.train import run_margins
from suites.train.drilling import Drilling
from suites.train.lesson import Lesson

pytestmark = pytest.mark.train

LONGEST = 20  # steps of a failed experiment that are run again


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``failed``: each recipe that says a cause, or what was changed."""
    recipes = settings_of(metafunc.config).recipes
    metafunc.parametrize("failed", [name for name, table in recipes.items() if {"cause", "changed"} & set(table)])


def _claim(tuned: str, failed: str) -> Claim:
    text = f"{failed} is on record as a failed experiment: run, worse than {tuned} or ended by an error, with cause and change"
    return Claim(f"T11.failed[{failed}]", text, identical())


@pytest.mark.claim(each=_claim)
def test_a_failed_experiment_is_kept(claim, bench, lesson, tuned, failed):
    told, tried, drilling = dict(bench.settings.recipes[failed]), Lesson(bench, failed).recipe, Drilling(lesson)
    steps = min(tried.steps or LONGEST, LONGEST)
    rows = drilling.rows(tried.batch * steps)
    recipes = {"failed": replace(tried, steps=steps), "control": replace(lesson.recipe, batch=tried.batch, steps=steps)}
    found = drilling.run([Drill(name, recipe, rows) for name, recipe in recipes.items()])

    def measure(record: dict, result: str = "failed") -> Measurement:
        conditions = {
            "record": record,
            "run": _shown(found[result]),
            "control": _shown(found["control"]),
            "recipe": tried.same(),
            "tuned": tuned,
        }
        return Measurement("failed_experiment", _facts(record, found[result], found["control"]), lesson.subjects, conditions)

    claim.check(
        measure(told),
        controls=[
            Control("A/A: the record read again", HOLDS, measure(dict(told))),
            Control("planted in the record: no cause", FAILS, measure({k: v for k, v in told.items() if k != "cause"})),
            Control("planted in the record: a run that was fine", FAILS, measure(told, "control")),
        ],
    )


def _facts(record: dict, run: dict, control: dict) -> tuple[Sample, ...]:
    """1 for each thing that has to be so."""
    ended = run["outcome"] == "failed" and bool(run["cause"])
    above = _end(run) - _end(control) if run["loss"] and control["loss"] else 0.0
    facts = {
        "the cause is written": bool(str(record.get("cause", "")).strip()),
        "what was changed is written": bool(str(record.get("changed", "")).strip()),
        "it was really run, and its curve is kept": bool(run["batches"]) and (ended or len(run["loss"]) == run["steps"]),
        "it ended by an error, or worse than its control": ended or above >= run_margins.WORSE,
        "its control was fine": control["outcome"] == "finished",
    }
    return tuple(Sample(name, float(so), detail={"above": above}) for name, so in facts.items())


def _end(run: dict) -> float:
    """The mean loss of the last quarter of the steps that were taken."""
    return fmean(run["loss"][-max(1, len(run["loss"]) // 4) :])


def _shown(run: dict) -> dict:
    return {key: run.get(key) for key in ("outcome", "cause", "loss", "steps", "device", "peak_bytes")}
