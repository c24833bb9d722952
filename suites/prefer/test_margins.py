"""PF2: on pairs that were held out, the implied reward of the chosen answer rose above that of the rejected one.

Read from log-probabilities, never from trl's ``rewards/accuracies``: that counts a tie as wrong, and is 0 before training.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, better_than
from harness.train.preferences import LogProbs, margin
from suites import controls, trained
from suites.controls import FAILS, HOLDS, NOT_HOLDS
from suites.prefer import margins
from suites.prefer.planted import turned_round

pytestmark = pytest.mark.prefer

NOTHING = "A/A: the tuned model against itself, read in another order: nothing learned"


def _held(bench, preferred):
    """A function: (new, rerun, swapped) -> rows of held-out pairs with the margin and what both arms give it, subjects, conditions."""
    tuned = bench.settings.compare.tuned
    beta = bench.settings.recipes.get(preferred, {}).get("beta", 0.1)

    def rows(new: str = preferred, *, rerun: int = 0, swapped: bool = False):
        found = bench.preferences.margins(new, tuned, rerun=rerun)
        conditions = {"beta": beta, "pairs": dict(bench.preferences.pairs(tuned).facts), "rerun": rerun}
        return [_read(row, beta, swapped) for row in found], (bench.subject(new), bench.subject(tuned)), conditions

    return rows


def _read(row, beta, swapped):
    new, old = (LogProbs(**row[arm]) for arm in ("new", "old"))
    sign = -1 if swapped else 1
    detail = {"own": row["own"], "new": row["new"], "old": row["old"], "longer": new.chosen_tokens - new.rejected_tokens}
    ratios = {arm: sign * beta * (of.chosen - of.rejected) for arm, of in (("new", new), ("old", old))}
    return row["item"], sign * margin(new, old, beta), ratios, detail


def _accuracy_claim(preferred: str) -> Claim:
    text = f"{preferred} prefers the chosen answer more than before on most held-out pairs: a margin above 0"
    return Claim(
        "PF2.accuracy", text, at_least(0.5), estimand="proportion", alpha=margins.SUPERIOR, min_n=margins.HELD,
        expected=margins.EXPECTED_ACCURACY,
    )  # fmt: skip


@pytest.mark.claim(each=_accuracy_claim)
def test_margins_are_positive_on_held_out_pairs(claim, bench, preferred):
    held = _held(bench, preferred)
    claim.needs(len(bench.preferences.pairs(bench.settings.compare.tuned).held))

    def measure(*asked, **how) -> Measurement:
        rows, subjects, conditions = held(*asked, **how)
        samples = (Sample(item, float(gap > 0), detail={**detail, "margin": gap}) for item, gap, _, detail in rows)
        return Measurement("reward_accuracy", tuple(samples), subjects, conditions)

    real = measure()
    share = {part: Measurement("reward_accuracy", controls.with_share(real.samples, part, claim.claim.id)) for part in (0.25, 0.75)}
    claim.check(
        real,
        controls=[
            Control(NOTHING, NOT_HOLDS, measure(bench.settings.compare.tuned, rerun=1)),
            Control("planted in the scores: three of four margins positive", HOLDS, share[0.75]),
            Control("planted in the scores: one of four", FAILS, share[0.25]),
            *turned_round(real, 0.5, measure(swapped=True)),
        ],
    )


def _margin_claim(preferred: str) -> Claim:
    text = f"{preferred} raised the implied reward of the chosen over the rejected answer: mean over held-out pairs"
    return Claim("PF2.margin", text, better_than(0.0), estimand="paired_mean", min_n=margins.HELD)


@pytest.mark.claim(each=_margin_claim)
def test_the_mean_margin_rose(claim, bench, preferred):
    held = _held(bench, preferred)
    claim.needs(len(bench.preferences.pairs(bench.settings.compare.tuned).held))

    def measure(*asked, **how) -> Measurement:
        rows, subjects, conditions = held(*asked, **how)
        samples = (Sample(item, ratios[arm], arm, detail=detail) for item, _, ratios, detail in rows for arm in ("new", "old"))
        return Measurement("reward_margin", tuple(samples), subjects, conditions)

    real = measure()
    claim.check(
        replace(real, conditions={**real.conditions, **trained.told(bench, preferred)}),
        controls=[
            Control(NOTHING, NOT_HOLDS, measure(bench.settings.compare.tuned, rerun=1)),
            Control("planted in the scores: a gain of 1, give or take 1", HOLDS, _moved(real, 1.0, claim.claim.id)),
            Control("planted in the scores: a loss of 1, give or take 1", FAILS, _moved(real, -1.0, claim.claim.id)),
            *turned_round(real, 0.0, measure(swapped=True)),
        ],
    )


def _moved(real: Measurement, by: float, seed: str) -> Measurement:
    """The old arm, and as the new one the old arm moved by ``by`` a pair, give or take 1 by SHA-256."""
    old = [s for s in real.samples if s.arm == "old"]
    moved = controls.per_token(old, by, 1.0, seed)
    rows = [Sample(s.item, was.value + s.value, "new") for s, was in zip(moved, old, strict=True)]
    return Measurement("reward_margin", (*rows, *old))
