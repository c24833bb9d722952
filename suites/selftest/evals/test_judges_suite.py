"""Each judge that is wrong in one way is stopped by the claim that names it; a clean one passes them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from harness import Claim, Measurement, Verdict
from harness.errors import MissingNeed
from harness.evals.judges import model
from harness.evals.judges.model import Judge, Pair
from harness.judge import judge as decide
from harness.lifecycle.judging import Judging
from suites.judge import mutants, test_bias, test_calibration, test_corrected
from suites.selftest.evals.test_judges_judging import MODEL, RULE, golden, judging

pytestmark = pytest.mark.selftest

J1, J3, J4 = test_calibration, test_bias, test_corrected
Check = Callable[[Any, Any, Judging], None]

# claim -> how it is declared, how it is checked
CLAIMS: dict[str, tuple[Claim, Check]] = {
    "J1.kappa": (J1._kappa("mine"), lambda c, b, j: J1.test_a_judge_agrees_with_people(c, b, j, "mine")),
    "J1.tpr": (J1._rate_claim("tpr", "mine"), lambda c, b, j: J1.test_a_judge_finds_what_people_find(c, b, j, "mine")),
    "J1.tnr": (J1._rate_claim("tnr", "mine"), lambda c, b, j: J1.test_a_judge_finds_no_more_than_people_do(c, b, j, "mine")),
    "J2.retest": (J3._retest("mine"), lambda c, b, j: J3.test_a_judge_agrees_with_itself(c, b, j, "mine")),
    "J4.corrected": (J4._corrected("mine"), lambda c, b, j: J4.test_a_corrected_score_is_what_people_say(c, j, "mine")),
    "J4.covers": (J4._covers("mine"), lambda c, b, j: J4.test_a_corrected_interval_holds_the_truth(c, j, "mine")),
    "J5.bound": (J1._bound("mine"), lambda c, b, j: J1.test_a_calibration_is_bound_to_its_judge(c, j, "mine")),
    "J6.injection": (J3._injection("mine"), lambda c, b, j: J3.test_a_judge_takes_no_orders_from_an_answer(c, b, j, "mine")),
}
for probe in ("length", "format", "position"):
    declared = J3._probe_claim("mine", probe)
    CLAIMS[f"J3.{probe}"] = declared, lambda c, b, j, probe=probe: J3.test_a_label_hangs_on_what_is_said(c, b, j, "mine", probe)


class Handle:
    """Plays the ``claim`` fixture: decides, and raises nothing."""

    def __init__(self, claim: Claim) -> None:
        self.claim, self.verdict = claim, None

    def needs(self, n: int) -> None:
        assert n >= self.claim.min_n

    def check(self, measurement: Measurement, *, controls: Any) -> None:
        self.verdict: Verdict | None = decide(self.claim, measurement, controls=controls)


def verdict(name: str, mine: Judge | None = None) -> Verdict:
    work = judging({"mine": RULE})
    if mine is not None:
        work.judge = lambda name: replace(mine, labels="mine")  # type: ignore[method-assign]
    claim, check = CLAIMS[name]
    handle = Handle(claim)
    check(handle, SimpleNamespace(tier=SimpleNamespace(name="full"), whole_set=lambda name: golden()), work)
    assert handle.verdict is not None
    return handle.verdict


@pytest.mark.parametrize("name", CLAIMS)
def test_a_clean_judge_passes(name: str) -> None:
    found = verdict(name)
    assert found.outcome == "holds", found.sentence
    assert all(control["met"] for control in found.controls) and len(found.controls) >= 2


ANSWERS = [answer for answer, _ in model.labelled(golden())]


@pytest.mark.parametrize(
    ("name", "mine"),
    [
        ("J1.tpr", mutants.always(0.0)),
        ("J1.tnr", mutants.always(1.0)),
        ("J2.retest", mutants.fickle()),
        ("J3.length", mutants.loves_more(ANSWERS)),
        ("J3.format", mutants.loves_marks()),
        ("J3.position", mutants.takes_the_first()),
        ("J6.injection", mutants.obedient(("Yes", "No"))),
    ],
)
def test_a_wrong_judge_is_stopped_by_the_claim_that_names_it(name: str, mine: Judge) -> None:
    assert verdict(name, mine).outcome == "fails"


@pytest.mark.parametrize(("share", "outcome"), [(1, "fails"), (2, "holds")])
def test_a_judge_that_decides_for_its_own_is_stopped(share: int, outcome: str) -> None:
    pairs = [Pair(f"p-{n}", "", f"own {n}", f"other {n}") for n in range(80)]
    half = [pair if n % share == 0 else Pair(pair.id, "", pair.second, pair.first) for n, pair in enumerate(pairs)]
    work = judging({"mine": RULE})
    mine = replace(mutants.partial(half), task="refused", labels="mine")
    work.judge = lambda name: mine  # type: ignore[method-assign]
    work.own_pairs = lambda judge, equals, limit: pairs  # type: ignore[method-assign]
    handle = Handle(J3._probe_claim("mine", "self"))
    bench = SimpleNamespace(tier=SimpleNamespace(name="full"), whole_set=lambda name: golden())
    J3.test_a_label_hangs_on_what_is_said(handle, bench, work, "mine", "self")
    assert handle.verdict is not None and handle.verdict.outcome == outcome, handle.verdict


def test_labels_that_slipped_a_row_are_stopped() -> None:
    slipped = golden()
    labels = [item["label"] for item in slipped.items]
    rows = tuple({**item, "label": label} for item, label in zip(slipped.items, [*labels[1:], labels[0]], strict=True))
    work = judging({"mine": RULE}, labels=replace(slipped, items=rows))
    record = work.calibration(work.judge("mine"))
    assert not record.fit and record.tpr.k == record.tnr.k == 0
    with pytest.raises(MissingNeed):
        work.require("mine")


def test_a_judge_that_was_changed_after_its_calibration_has_no_say() -> None:
    before, after = judging({"mine": MODEL}), judging({"mine": {**MODEL, "rubric": "Does it decline now?"}})
    record = before.calibration(before.judge("mine"))
    rows = before.labels(before.judge("mine"), ANSWERS)
    claim = Claim("x", "half decline", CLAIMS["J1.tpr"][0].bound, estimand="proportion")

    def said(work: Judging) -> Verdict:
        return decide(claim, Measurement("declined", rows, conditions=work.conditions(work.judge("mine"), record)))

    assert said(before).reason != "uncalibrated_judge"
    assert said(after).reason == "uncalibrated_judge"
