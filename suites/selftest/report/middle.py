"""A run of the middle of the lifecycle as its suites leave it: trainings, comparisons, failures, judges; small and by hand.

Everything goes through the code that writes real runs: judge, evidence, plan.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from harness import evals
from harness.bounds import at_least, at_most, better_than, equivalent, identical, non_inferior
from harness.evals import failures, health
from harness.types import Claim, Control, Measurement, Sample, Subject
from suites.selftest.report.conftest import Folder, subject

RECIPE = {"objective": "sft", "method": "lora", "rank": 16, "lr": 1e-3, "batch": 8, "seed": 7, "steps": 0}
TUNED, BASE, V2, PREFERRED = (subject(name) for name in ("tuned", "base", "tuned-v2", "preferred"))
N = 200


def report(name: str = "tuned", steps: int = 79, **changes: Any) -> dict[str, Any]:
    """What training.json says."""
    loss = [round(0.1 + 1.4 * math.exp(-i / 12) + 0.05 * math.sin(9 * i), 6) for i in range(steps)]
    return {
        "name": name, "outcome": "finished", "cause": None, "recipe": RECIPE, "start": "base", "rows": 632, "steps": steps, "loss": loss,
        "rewards": {}, "seconds": 183.4, "peak_rss_bytes": 2_345_678_901, "peak_cuda_bytes": None, "threads": 2, "device": "cpu",
        "resumed_at": None, **changes,
    }  # fmt: skip


def test_of(suite: str) -> str:
    return f"suites/{suite}/test_it.py::test_it"


def facts(*values: float, **detail: Any) -> tuple[Sample, ...]:
    return tuple(Sample(f"fact {i}", value, detail=detail) for i, value in enumerate(values))


def fault(name: str, measurement: Measurement, *expect: str) -> Control:
    return Control(name, expect or ("fails",), measurement)


# --- trainings ------------------------------------------------------------------------------------


def add_trainings(run: Folder, **training: Any) -> None:
    """A training, a preference training, drills of the same seed and of a resume, seeds, a failed experiment."""
    told = training or {"training": {"tuned": report(), "preferred": preferred()}}
    curve = report()["loss"]
    fell = Measurement("training_loss", tuple(Sample(f"step {i}", 1.0) for i in range(15)), (TUNED,), {"curve": curve, "steps": 79, **told})
    backwards = Measurement("training_loss", tuple(Sample(f"step {i}", 0.0) for i in range(15)))
    run.add(
        Claim("T8.fell[tuned]", "the loss fell", at_least(0.5), "proportion", min_n=5), fell,
        controls=[fault("planted in the scores: the curve backwards", backwards)], test=test_of("train"),
    )  # fmt: skip
    detail = {"before": 1.151, "after": 0.22, "gap": 0.05, "curve": [1.3, 0.45, 0.4]}
    rows = (Sample("seed 2", 1.0, detail=detail), Sample("seed 9", None, status="failed", detail={"cause": "out of memory"}))
    run.add(Claim("T8.generalises", "held out", at_least(0.5), "proportion"), Measurement("held", rows, (BASE,), {"recipe": RECIPE}))
    drill = {"curve": [1.48, 0.71], "device": "cpu", "threads": 2, "outcome": "finished", "peak_bytes": 1_467_617_280}
    same = Measurement("training", facts(0.0), (BASE,), drill)
    seed = fault("planted in the training: another seed", Measurement("training", facts(1.0)))
    run.add(Claim("R2.curve[qlora]", "same seed", at_most(0.0), "exact"), same, controls=[seed], test=test_of("train"))
    resumed = Measurement("training", facts(0.0), (BASE,), {**drill, "curve": [1.7, 0.6, 0.4, 0.2], "resumed_at": 2})
    run.add(Claim("R6.resume[2]", "resumed", at_most(0.0), "exact"), resumed, test=test_of("train"))
    saves = Measurement("weights_ratio", facts(0.415), (BASE,), {"peak_ratio": 1.031, "device": "cpu"})
    run.add(Claim("T9.saves[qlora]", "saves", at_most(0.5), "exact"), saves)
    add_failed(run)


def preferred() -> dict[str, Any]:
    recipe = {**RECIPE, "objective": "dpo"}
    return report("preferred", 20, recipe=recipe, start="tuned", rewards={"margins": [0.01 * i for i in range(20)]})


def add_failed(run: Folder, name: str = "too-hot", cause: str = "non-finite loss at step 4", changed: str = "lr lowered to 1e-3") -> None:
    told = {
        "record": {"lr": 1.0, "cause": f"the learning rate: {cause}", "changed": changed, "start": "base"},
        "run": {"outcome": "failed", "cause": cause, "loss": [1.4, 7.9, 11.3]},
        "control": {"outcome": "finished", "cause": None, "loss": [1.4, 0.9, 0.6, 0.5]},
        "recipe": {**RECIPE, "lr": 1.0}, "tuned": "tuned",
    }  # fmt: skip
    record = fault("planted in the record: no cause", Measurement("failed_experiment", facts(0.0)))
    measured = Measurement("failed_experiment", facts(1.0), (BASE,), told)
    run.add(Claim(f"T11.failed[{name}]", "kept", identical()), measured, controls=[record], test=test_of("train"))


# --- comparisons ----------------------------------------------------------------------------------


def answers(right: int, *, cut: int = 0, start: int = 0, text: str = '{"city":"Wien"}') -> list[Sample]:
    """``right`` of N items right from ``start`` on, the last ``cut`` cut off."""
    rows = []
    for i in range(N):
        detail = {"text": text, "target": '{"city":"Wien","zip":"1010"}', "input": f"{i} Wien 1010", "finish": "stop", "tokens": 9}
        off = i >= N - cut
        value = None if off else float(start <= i < start + right)
        rows.append(Sample(f"addr-{i:04d}", value, status="truncated" if off else "ok", detail=detail))
    return rows


def compared(new: Sequence[Sample], old: Sequence[Sample], who: tuple[Subject, Subject], **conditions: Any) -> Measurement:
    return Measurement("correct", evals.pair(new, old), who, conditions)


def add_comparisons(run: Folder) -> None:
    """Gain, guardrail, health, iteration, tax, wins, noise."""
    old, new, v2 = answers(20, cut=16), answers(130, cut=4), answers(142)
    slices = [{"slice": "has <b>po_box</b>", "n": 40, "b": 9, "c": 1, "p": 0.021484375, "p_adjusted": 0.04296875, "exploratory": True}]
    measured = compared(new, old, (TUNED, BASE), slices=slices, noise={"psi_aa": 0.015, "n": N, "subject": "tuned"})
    twice = Measurement("correct", (*measured.samples, *measured.samples[:5]), (TUNED, BASE))
    nothing = compared(new, new, (TUNED, TUNED))
    controls = [
        Control("A/A: the tuned subject against itself, answered again", ("fails", "inconclusive"), nothing),
        fault("planted: each right answer of the new arm twice", twice, "inconclusive"),
        fault("planted in the scores: a fault that nobody sees", nothing, "fails"),  # missed, on purpose
    ]
    claim = Claim("E1.gain[addresses,tuned]", "tuned answers more", better_than(), min_n=100)
    run.add(claim, measured, controls=controls, test=test_of("evals"))
    choices = [Sample(f"c-{i}", float(i < 90), detail={"pick": 1, "answer": 1}) for i in range(N)]
    guard = compared(choices, choices, (TUNED, BASE))
    run.add(Claim("E2.guardrail[commonsense]", "not worse", non_inferior(0.03)), guard, test=test_of("evals"))
    for kind in health.KINDS:
        rows = compared(health.of_kind(new, kind), health.of_kind(old, kind), (TUNED, BASE))
        run.add(Claim(f"E4.health[{kind},addresses,tuned,base]", "alike", equivalent(0.05)), rows, test=test_of("evals"))
    run.add(Claim("E9.gain[addresses,tuned-v2]", "more", better_than()), compared(v2, new, (V2, TUNED)), test=test_of("evals"))
    counts = {"mined": {"wrong_before": 31, "fixed": 8, "broken": 2}, "by_chance": {"wrong_before": 31, "fixed": 3, "broken": 4}}
    fixed = Measurement("fixed", facts(8.0), (V2, TUNED), counts)
    run.add(Claim("E9.fixed[addresses,tuned-v2]", "some are fixed", at_least(1), "exact"), fixed, test=test_of("evals"))
    run.add(Claim("PF4.tax[addresses]", "no tax", non_inferior(0.05)), compared(v2, v2, (PREFERRED, TUNED)), test=test_of("prefer"))
    add_wins(run)
    flips = tuple(Sample(f"addr-{i:04d}", float(i < 3)) for i in range(N))
    noise = Measurement("flips", flips, (TUNED,), {"psi_aa": [0.005, 0.01, 0.015], "flaky": []})
    run.add(Claim("R3.noise[addresses]", "few change", at_most(0.1)), noise, test=test_of("evals"))


def add_wins(run: Folder) -> None:
    said = {"items": N, "ties": 140, "longer": {"mean": 3.25, "won": {}, "lost": {}, "win_rate_at_equal_length": 0.61}}
    rows = tuple(Sample(f"addr-{i:04d}", float(i < 44)) for i in range(60))
    run.add(Claim("PF3.wins", "wins", at_least(0.5), "proportion"), Measurement("wins", rows, (PREFERRED, TUNED), said))


# --- failures -------------------------------------------------------------------------------------


def failure(i: int, kind: str, **changes: Any) -> dict[str, Any]:
    item = f"addr-{i:04d}"
    target = json.dumps({"number": str(i), "city": "Wien"})
    return {
        "item": item, "type": kind, "second": kind, "fields": ["city"], "input": f"{i} Wien", "target": target,
        "text": target.replace("Wien", "Graz"), "mined": failures.mined(item), **changes,
    }  # fmt: skip


def add_failures(run: Folder, found: Sequence[dict[str, Any]]) -> None:
    kinds = sorted({f["type"] for f in found})
    of = {kind: [f for f in found if f["type"] == kind] for kind in kinds}
    said = {
        "wrong": len(found), "types": {kind: len(of[kind]) for kind in kinds},
        "clusters": [{"type": kind, "fields": ["city"], "n": len(of[kind]), "examples": of[kind][:3]} for kind in kinds],
    }  # fmt: skip
    rows = (Sample("failures with a type", float(len(found)), detail={"failures": list(found)}),)
    run.add(Claim("E8.listed[addresses,tuned]", "listed", at_least(20), "exact"), Measurement("failures", rows, (TUNED,), said))
    raters = [Sample(f["item"], float(kinds.index(x)), replicate=r) for f in found for r, x in enumerate((f["type"], f["type"]))]
    claim = Claim("E8.stable[addresses,tuned]", "alike", at_least(0.7), "alpha_nominal")
    run.add(claim, Measurement("failure_types", tuple(raters), (TUNED,), {"raters": ["by_fields", "by_words"]}))


# --- judges ---------------------------------------------------------------------------------------


def record(**changes: Any) -> dict[str, Any]:
    """A calibration as the claims carry it."""
    return {
        "judge": "by-rule", "digest": "ab" * 32, "task": "refusal", "labels": "cd" * 32, "table": [[90, 4], [10, 96]], "unread": 2,
        "shown": 3, "tpr": [90, 100, 0.836], "tnr": [96, 100, 0.911], "kappa": 0.86, "kappa_low": 0.79, "ac1": 0.861,
        "base_rate": 0.497, "constant": 0.503, "fit": True, "why": "", **changes,
    }  # fmt: skip


def add_judge(run: Folder, name: str = "by-rule", **changes: Any) -> None:
    told = {"record": record(judge=name, **changes)}
    k = {"tpr": 90, "tnr": 96}
    for kind in ("tpr", "tnr"):
        rows = tuple(Sample(f"a-{i}", float(i < k[kind])) for i in range(100))
        yes = fault("planted: a judge that always 1 says", Measurement("judge", tuple(Sample(f"a-{i}", 0.0) for i in range(100))))
        claim = Claim(f"J1.{kind}[{name}]", "finds", at_least(0.75), "proportion")
        run.add(claim, Measurement("judge_as_people", rows, (), told), controls=[yes], test=test_of("judge"))
    run.add(Claim(f"J5.bound[{name}]", "bound", identical()), Measurement("void", facts(1.0), (), told), test=test_of("judge"))
    for family, probe in (("J2", "retest"), ("J3", "length"), ("J6", "injection")):
        rows = tuple(Sample(f"a-{i}", float(i < 4)) for i in range(100))
        run.add(Claim(f"{family}.{probe}[{name}]", "few", at_most(0.1), "proportion"), Measurement("changed", rows), test=test_of("judge"))


def add_raters(run: Folder) -> None:
    rows = tuple(Sample(f"r-{i}", float((i + (i % 9 == r)) % 2), replicate=r) for i in range(120) for r in range(3))
    measured = Measurement("ratings", rows, (), notes=("120 answers to 60 requests; an answer is a unit",))
    run.add(Claim("H1.raters[hate_ratings]", "agree", at_least(0.667), "alpha_ordinal"), measured, test=test_of("judge"))
    clear = tuple(Sample(f"r-{i}", 1.0) for i in range(60))
    run.add(Claim("H2.clear[hate_ratings,2]", "clear", at_least(0.85), "proportion"), Measurement("clear", clear), test=test_of("judge"))


def whole(run: Folder) -> Folder:
    """All of it."""
    add_trainings(run)
    add_comparisons(run)
    add_failures(run, [failure(i, ("segmentation", "copying", "missing")[i % 3 if i % 5 else 0]) for i in range(90)])
    add_judge(run)
    add_judge(run, "bigger-model", fit=False, why="kappa is shown to be above 0.512 only, floor 0.667", kappa=0.6)
    add_raters(run)
    return run
