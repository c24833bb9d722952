"""PF3: on golden items the preferred model wins more often than it loses, by an exact checker, and by a judge where one is calibrated.

The checker needs no order and has no taste for length: fields that are right, F1. The judge is asked in both orders.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest

from harness import Claim, Control, Measurement, Sample, at_least
from harness.errors import MissingNeed
from harness.evals.judges.model import Pair
from harness.evals.scorers import structured
from harness.train.preferences import length_controlled
from suites import controls
from suites.controls import FAILS, HOLDS, NOT_HOLDS
from suites.prefer import margins
from suites.prefer.planted import turned_round

pytestmark = pytest.mark.prefer


def _superior(name: str, text: str) -> Claim:
    return Claim(
        name, text, at_least(0.5), estimand="proportion", alpha=margins.SUPERIOR, min_n=margins.DECISIVE, expected=margins.EXPECTED_WINS
    )


def _wins_claim(preferred: str) -> Claim:
    return _superior("PF3.wins", f"{preferred} gets more fields right than before on most of the golden items where they differ")


@pytest.mark.claim(each=_wins_claim)
def test_it_wins_by_the_exact_checker(claim, bench, preferred):
    compare = bench.settings.compare
    claim.needs(bench.golden(compare.primary).n)
    old = bench.answers(compare.tuned, compare.primary)

    def measure(new, old) -> Measurement:
        was = {s.item: s for s in old.samples}
        return decided([(s, was[s.item]) for s in new.samples], (new.subject, old.subject))

    new, again = bench.answers(preferred, compare.primary), bench.answers(compare.tuned, compare.primary, control=True)
    claim.check(
        measure(new, old), controls=_controls(claim, old, measure(again, old), turned_round(measure(new, old), 0.5, measure(old, new)))
    )


def decided(pairs, subjects) -> Measurement:
    """(new, old) samples of the same items as wins and losses; ties and lengths stand in the conditions."""
    rows = []
    for new, old in pairs:
        ours, theirs = fields_right(new), fields_right(old)
        detail = {"new": new.detail["text"], "old": old.detail["text"], "target": new.detail["target"], "f1": [ours, theirs]}
        rows.append((new.item, ours, theirs, len(new.detail["text"]) - len(old.detail["text"]), detail))
    return as_wins(rows, subjects)


def as_wins(rows, subjects, **conditions) -> Measurement:
    """Rows of (item, new score, old score, characters that the new answer is longer, detail) as wins (1) and losses (0)."""
    decisive = [row for row in rows if row[1] != row[2]]
    wins, longer = [ours > theirs for _, ours, theirs, _, _ in decisive], [row[3] for row in decisive]
    both = any(wins) and not all(wins)
    said = {
        "items": len(rows), "ties": len(rows) - len(decisive),
        "longer": {
            "mean": sum(row[3] for row in rows) / len(rows) if rows else None,
            "won": dict(Counter(_side(x) for x, won in zip(longer, wins, strict=True) if won)),
            "lost": dict(Counter(_side(x) for x, won in zip(longer, wins, strict=True) if not won)),
            "win_rate_at_equal_length": length_controlled(wins, longer) if both else None,
        },
    }  # fmt: skip
    samples = tuple(Sample(row[0], float(won), detail=row[4]) for row, won in zip(decisive, wins, strict=True))
    return Measurement("wins", samples, subjects, {**said, **conditions})


def _side(longer: float) -> str:
    return "longer" if longer > 0 else "shorter" if longer < 0 else "as long"


def fields_right(sample: Sample) -> float:
    """F1 of the fields of an answer; 0 for one that was cut off or cannot be read."""
    if sample.value is None:
        return 0.0
    return structured.f1(structured.per_field(structured.parsed(sample.detail["text"]), json.loads(sample.detail["target"])))


# --- by a judge ---------------------------------------------------------------------------------


def _judged_claim(preferred: str) -> Claim:
    return _superior("PF3.judged", f"a calibrated judge, asked in both orders, prefers the answers of {preferred} on most decisive items")


@pytest.mark.claim(each=_judged_claim)
def test_it_wins_before_a_calibrated_judge(claim, bench, preferred):
    judge = bench.judging.calibrated_for("preference")
    if judge is None:
        raise MissingNeed(
            "calibrated-judge", "no judge of [judges] is calibrated for preferences: what it says proves nothing",
            "name one in the lifecycle file, label its set, and run pytest -m judge",
        )  # fmt: skip
    compare = bench.settings.compare
    old = bench.answers(compare.tuned, compare.primary)

    def measure(new, old) -> Measurement:
        was = {s.item: s for s in old.samples}
        return judged(bench.judging, judge, [(s, was[s.item]) for s in new.samples], (new.subject, old.subject))

    new, again = bench.answers(preferred, compare.primary), bench.answers(compare.tuned, compare.primary, control=True)
    claim.check(
        measure(new, old), controls=_controls(claim, old, measure(again, old), turned_round(measure(new, old), 0.5, measure(old, new)))
    )


def judged(judging, name, pairs, subjects) -> Measurement:
    """(new, old) samples of the same items as wins and losses of a judge; what it says in one order only is a tie."""
    judge = judging.judge(name)
    texts = [Pair(new.item, new.detail["input"], new.detail["text"], old.detail["text"]) for new, old in pairs]
    forth, back = judging.both_orders(judge, texts)
    rows = []
    for (new, old), there, here in zip(pairs, forth, back, strict=True):
        said = (there.value, None if here.value is None else 1 - here.value)  # of the new answer, in both orders
        steady = said[0] if said[0] == said[1] and said[0] is not None else 0.5
        detail = {"new": new.detail["text"], "old": old.detail["text"], "said": list(said)}
        rows.append((new.item, steady, 1 - steady, len(new.detail["text"]) - len(old.detail["text"]), detail))
    return as_wins(rows, subjects, **judging.conditions(judge, judging.calibrated(name)))


def _controls(claim, old, again, turned):
    """Nothing changed, the arms swapped, and shares of known size over all items."""
    items = [Sample(s.item, 0.0) for s in old.samples]
    share = {part: Measurement("wins", controls.with_share(items, part, claim.claim.id)) for part in (0.25, 0.75)}
    return [
        Control("A/A: the tuned model against itself, answered again", NOT_HOLDS, again),
        Control("planted in the scores: three of four items won", HOLDS, share[0.75]),
        Control("planted in the scores: one of four", FAILS, share[0.25]),
        *turned,
    ]
