"""Whether the two arms may be compared at all: one way of asking, answers alike in health, a scorer that is blind."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from harness import Claim, Control, Measurement, Sample, equivalent, evals, identical
from harness.evals import health
from harness.golden import GoldenSet
from harness.types import Generation
from suites import controls
from suites.evals import arms, margins

pytestmark = pytest.mark.evals


# --- asked in one way -----------------------------------------------------------------------------


def _arms_claim(primary: str, tuned: str) -> Claim:
    text = f"{tuned} and the base answered {primary} under the same conditions, but for the worked examples the base is shown"
    return Claim(f"E3.arms[{primary},{tuned}]", text, identical())


@pytest.mark.claim(each=_arms_claim)
def test_the_arms_differ_only_as_declared(claim, bench, primary, tuned):
    said = bench.settings.compare
    new, old = bench.answers(tuned, primary), bench.answers(said.base, primary, shots=said.shots)
    declared = {"shots": (0, said.shots)} if said.shots else {}

    def rows(ours: Mapping[str, Any], declared: Mapping[str, Any] = declared) -> Measurement:
        conditions = {"declared": {key: list(pair) for key, pair in declared.items()}, "old": dict(old.conditions)}
        return Measurement("conditions", _differences(ours, old.conditions, declared), (new.subject, old.subject), conditions)

    engine = {**new.conditions["engine"], "batch_items": "1"}
    claim.check(
        rows(new.conditions),
        controls=[
            Control("A/A: the base beside itself", controls.HOLDS, rows(old.conditions, {})),
            Control("planted: another order of items", controls.FAILS, rows({**new.conditions, "order": "as in the file"})),
            Control("planted: one at a time", controls.FAILS, rows({**new.conditions, "engine": engine})),
            *([Control("planted: a difference that nobody declared", controls.FAILS, rows(new.conditions, {}))] if declared else []),
        ],
    )


def _differences(new: Mapping[str, Any], old: Mapping[str, Any], declared: Mapping[str, Any]) -> tuple[Sample, ...]:
    """One row per condition: 1 if it is the same, or differs exactly as declared."""
    ours, theirs = _flat(new), _flat(old)
    rows = []
    for key in sorted({*ours, *theirs, *declared}):
        mine, other = ours.get(key, 0 if key in declared else "absent"), theirs.get(key, 0 if key in declared else "absent")
        expected = (mine, other) == declared[key] if key in declared else mine == other
        rows.append(Sample(key, float(expected), detail={"new": mine, "old": other, "declared": key in declared}))
    return tuple(rows)


def _flat(conditions: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in conditions.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


# --- alike in health --------------------------------------------------------------------------------


def _health_claim(primary: str, kind: str, new_arm: str, old_arm: str) -> Claim:
    text = f"the share of answers to {primary} that are '{kind}' is the same for {new_arm} and {old_arm}, within the margin"
    return Claim(f"E4.health[{kind},{primary},{new_arm},{old_arm}]", text, equivalent(margins.HEALTH), psi=0.03, min_n=100)


@pytest.mark.claim(each=_health_claim)
def test_the_arms_are_alike_before_they_are_scored(claim, bench, primary, kind, new_arm, old_arm):
    said, margin = bench.settings.compare, claim.claim.bound.limit
    claim.needs(bench.golden(primary).n)

    def answers(name: str, *, control: bool = False) -> Any:
        shots = said.shots if name == said.base else 0
        return bench.answers(name, primary, control=control, shots=shots)

    def measure(new: Any, old: Any) -> Measurement:
        return arms.paired(f"health:{kind}", new, old, lambda rows: health.of_kind(rows, kind))

    new = answers(new_arm)
    nothing = measure(answers(said.tuned, control=True), answers(said.tuned))
    more = arms.with_kind(nothing, 3 * margin, claim.claim.id)
    measured = measure(new, answers(old_arm))
    claim.check(
        measured,
        controls=[
            Control("A/A: the tuned subject against itself, answered again", controls.HOLDS, nothing),
            Control(f"planted: {3 * margin:.0%} more of the new arm's answers {kind}", controls.FAILS, more),
            Control("planted: the errors of one arm dropped", ("inconclusive",), _dropped(more)),
        ],
    )


def _dropped(measurement: Measurement) -> Measurement:
    return replace(measurement, samples=tuple(s for s in measurement.samples if s.arm == "old" or s.value != 1))


# --- a blind scorer ---------------------------------------------------------------------------------

Scorer = Callable[[GoldenSet, Sequence[Generation]], Sequence[Sample]]

# What a scorer is given of an answer beside its text: nothing of this may tell one arm from the other.
_TOLD = ("id", "text", "finish", "tokens")


def _blind_claim(extracted: str) -> Claim:
    text = f"the scorer of {extracted} gives the same scores when it cannot know which arm an answer is from"
    return Claim(f"E5.blind[{extracted}]", text, identical())


@pytest.mark.claim(each=_blind_claim)
def test_the_scorer_cannot_tell_the_arms_apart(claim, bench, extracted):
    said = bench.settings.compare
    golden = bench.golden(extracted)
    by_arm = {
        "new": bench.answers(said.tuned, extracted).samples,
        "old": bench.answers(said.base, extracted, shots=said.shots).samples,
    }
    words = (said.tuned, said.base, str(bench.path(said.tuned)), str(bench.path(said.base)))

    def measure(score: Scorer) -> Measurement:
        return Measurement("blind", _compared(golden, by_arm, score, words), conditions={"told": list(_TOLD)})

    prompts = {s.detail["prompt"] for s in by_arm["new"]}

    def reads_the_arm(golden: GoldenSet, answers: Sequence[Generation]) -> Sequence[Sample]:
        rows = evals.score_answers(golden, answers)
        return [replace(r, value=1.0, status="ok") if a.prompt_digest in prompts else r for r, a in zip(rows, answers, strict=True)]

    def tires(golden: GoldenSet, answers: Sequence[Generation]) -> Sequence[Sample]:
        """Lenient with whatever comes first."""
        rows = evals.score_answers(golden, answers)
        return [replace(r, value=1.0, status="ok") if i < len(rows) // 4 else r for i, r in enumerate(rows)]

    claim.check(
        measure(evals.score_answers),
        controls=[
            Control("planted: a scorer that knows the tuned arm by its prompts", controls.FAILS, measure(reads_the_arm)),
            Control("planted: a scorer that is lenient with what comes first", controls.FAILS, measure(tires)),
        ],
    )


def _compared(golden: GoldenSet, by_arm: Mapping[str, Sequence[Sample]], score: Scorer, words: Sequence[str]) -> tuple[Sample, ...]:
    """One row per answer: 1 if its open and its blind score agree, and nothing the blind scorer saw names an arm.

    Blind: both arms mixed by SHA-256 into two heaps under new names, in another order, with what could tell them apart taken off.
    """
    opened = {
        (arm, s.item): (s.value, s.status)
        for arm, rows in by_arm.items()
        for s in score(golden, [_generation(row) for row in rows])
    }  # fmt: skip
    heaps: tuple[list[tuple[str, Generation]], list[tuple[str, Generation]]] = ([], [])
    for first, second in zip(*(sorted(by_arm[arm], key=lambda s: s.item) for arm in ("new", "old")), strict=True):
        coin = hashlib.sha256(f"blind:{first.item}".encode()).digest()[0] % 2
        for heap, (arm, row) in zip((coin, 1 - coin), (("new", first), ("old", second)), strict=True):
            heaps[heap].append((arm, _stripped(_generation(row))))
    rows = []
    for heap in heaps:
        mixed = sorted(heap, key=lambda pair: hashlib.sha256(f"order:{pair[1].id}".encode()).digest())
        for (arm, seen), scored in zip(mixed, score(golden, [answer for _, answer in mixed]), strict=True):
            same = opened[arm, seen.id] == (scored.value, scored.status)
            shown = json.dumps([seen.id, seen.finish, seen.error, seen.prompt_digest])
            told = [word for word in words if re.search(rf"\b{re.escape(word)}\b", shown)]
            detail = {"open": opened[arm, seen.id][1], "blind": scored.status, "names": told}
            rows.append(Sample(f"{arm}:{seen.id}", float(same and not told), detail=detail))
    return tuple(rows)


def _generation(sample: Sample) -> Generation:
    """The answer as its scorer got it."""
    detail = sample.detail
    return Generation(
        sample.item, detail.get("text", ""), detail["finish"], 0, detail["tokens"], detail.get("prompt", ""), detail.get("error", "")
    )


def _stripped(answer: Generation) -> Generation:
    empty = Generation("", "", "stop", 0, 0)
    return replace(answer, **{f.name: getattr(empty, f.name) for f in fields(answer) if f.name not in _TOLD})
