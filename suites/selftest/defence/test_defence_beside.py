"""Old beside new: what is explained, and what is not. On claims judged by the judge, without a rerun."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from harness import Claim, Measurement, Sample, at_least, at_most, better_than, evidence, identical, non_inferior
from harness.defence import beside
from harness.defence.beside import AGREES, CONTRADICTS, EXPLAINED, NOT_RERUN
from harness.defence.kept import Kept
from harness.judge import judge, not_evaluated
from harness.types import Subject, Verdict

pytestmark = pytest.mark.selftest

RATE = Claim("a.rate", "four in five are right", at_least(0.8))
LIMITS = {"g": 0.10}


def kept(claim: Claim, measurement: Measurement | None, verdict: Verdict | None = None) -> Kept:
    found = verdict or judge(claim, measurement, controls=[])
    record = {
        "claim": evidence.claim_to_json(claim),
        "verdict": evidence.verdict_to_json(found),
        "measurement": measurement and evidence.measurement_to_json(measurement, {}),
    }
    return Kept(json.loads(json.dumps(record)), measurement.samples if measurement else ())


def scored(values: Sequence[float], digest: str = "d", **more) -> Measurement:
    rows = tuple(Sample(f"i{i}", float(value)) for i, value in enumerate(values))
    return Measurement("correct", rows, (Subject("mine", "fake", "x", digest),), {"golden": "g+limit=500"}, **more)


def right(k: int, n: int = 500) -> list[float]:
    return [1.0] * k + [0.0] * (n - k)


def flipped(values: Sequence[float], lost: int, gained: int) -> list[float]:
    """The first ``lost`` that were right are wrong, the last ``gained`` that were wrong are right."""
    made = list(values)
    for i in [i for i, value in enumerate(values) if value == 1][:lost]:
        made[i] = 0.0
    for i in [i for i, value in enumerate(values) if value == 0][:gained]:
        made[i] = 1.0
    return made


def outcome(old: Kept, new: Kept, around: Sequence[str] = (), **more) -> beside.Compared:
    (found,) = beside.decide([beside.compare(old, new, "evals", LIMITS, around, **more)], 0.05)
    return found


def test_the_same_rows_agree():
    found = outcome(kept(RATE, scored(right(450))), kept(RATE, scored(right(450))))
    assert (found.outcome, found.why) == (AGREES, "all 500 rows came out the same")


def test_flips_both_ways_within_the_limit_agree():
    found = outcome(kept(RATE, scored(right(450))), kept(RATE, scored(flipped(right(450), 6, 6))))
    assert found.outcome == AGREES
    assert "12 of 500 rows changed (6 up, 6 down; R3 allows 0.1)" in found.why


def test_a_small_loss_that_goes_one_way_is_not_explained_away():
    """Eight items of 500: inside the interval, far below the limit, and all of them lost."""
    found = outcome(kept(RATE, scored(right(450))), kept(RATE, scored(flipped(right(450), 8, 0))))
    assert found.inside == (True, True)
    assert found.outcome == CONTRADICTS
    assert "8 rows changed, 0 up and 8 down: they go one way" in found.why


def test_more_flips_than_declared_contradict():
    found = outcome(kept(RATE, scored(right(450))), kept(RATE, scored(flipped(right(450), 45, 45))))
    assert found.outcome == CONTRADICTS
    assert "90 of 500 rows changed, above the 0.1 that R3 declares" in found.why


def test_another_subject_is_compared_by_its_effect_alone():
    """Trained again, a model is another: the flips of one and the same subject are no limit for it."""
    found = outcome(kept(RATE, scored(right(450))), kept(RATE, scored(flipped(right(450), 45, 45), digest="e")))
    assert found.outcome == AGREES
    assert "mine is another artifact" in found.why


def test_arms_do_not_hide_each_other():
    """What the new arm loses the old one gains, so that as many rows go up as down."""
    claim = Claim("a.gain", "better", better_than(0.0))

    def pairs(new: Sequence[float], old: Sequence[float]) -> Measurement:
        rows = [Sample(f"i{i}", v, arm) for arm, values in (("new", new), ("old", old)) for i, v in enumerate(values)]
        return Measurement("correct", tuple(rows), conditions={"golden": "g"})

    old = kept(claim, pairs(right(400), right(200)))
    found = outcome(old, kept(claim, pairs(flipped(right(400), 12, 0), flipped(right(200), 0, 12))))
    assert found.rows.up == found.rows.down == 12
    assert found.outcome == CONTRADICTS
    assert {name for name in found.significant if name.startswith("direction")} == {"direction:new", "direction:old"}


def test_opposite_verdicts_contradict_and_undecided_ones_are_explained():
    holds, fails = kept(RATE, scored(right(450))), kept(RATE, scored(right(350)))
    assert outcome(holds, fails).outcome == CONTRADICTS
    near = right(416)
    before, after = kept(RATE, scored(near)), kept(RATE, scored(flipped(near, 5, 3)))
    assert (before.verdict["outcome"], after.verdict["outcome"]) == ("holds", "inconclusive")
    found = outcome(before, after)
    assert found.outcome == EXPLAINED
    assert found.why.startswith("holds in the report, inconclusive here")


def test_a_wider_margin_is_another_claim():
    rows = [Sample(f"i{i}", v, arm) for arm in ("new", "old") for i, v in enumerate(right(400))]
    old, new = (kept(Claim("a.b", "not worse", non_inferior(m)), Measurement("m", tuple(rows))) for m in (0.2, 0.05))
    found = outcome(old, new)
    assert found.outcome == CONTRADICTS
    assert "bound non_inferior(0.2) in the report, non_inferior(0.05) in the code" in found.why
    assert outcome(old, new, same_code=False).outcome == NOT_RERUN


def test_items_left_out_are_named():
    all_rows = scored(right(450))
    short = Measurement("correct", all_rows.samples[:470], all_rows.subjects, all_rows.conditions)
    found = outcome(kept(RATE, short), kept(RATE, all_rows))
    assert found.outcome == CONTRADICTS
    assert "30 of 500 rows are not in the report" in found.why


def test_items_left_out_are_named_amid_noise():
    rows, again = scored(right(450)), scored(flipped(right(450), 5, 5))
    short = Measurement("correct", rows.samples[:470], rows.subjects, rows.conditions)
    found = outcome(kept(RATE, short), kept(RATE, again))
    assert found.outcome == CONTRADICTS
    assert "items" in found.significant


def test_an_exact_number_comes_out_the_same_or_contradicts():
    claim = Claim("a.bits", "at most 7 bits", at_most(7.0), estimand="exact")

    def bits(value: float, metric: str = "bits_per_weight") -> Kept:
        return kept(claim, Measurement(metric, (Sample("all", value),)))

    assert outcome(bits(5.0), bits(5.0 + 1e-9)).outcome == AGREES
    assert outcome(bits(5.0), bits(5.2)).outcome == CONTRADICTS  # nothing was changed
    assert outcome(bits(5.0), bits(5.2), ["torch 2.13, then 2.12"]).outcome == EXPLAINED
    assert outcome(bits(5.0), bits(6.2), ["torch 2.13, then 2.12"]).outcome == CONTRADICTS  # more than half of the way to 7
    assert outcome(bits(5.0, "held_bytes"), bits(5.2, "held_bytes")).outcome == EXPLAINED  # a gauge


def test_exact_rows_that_change_both_ways_are_not_called_the_same():
    claim = Claim("a.same", "every row is right", identical())
    found = outcome(kept(claim, scored([0, 1, 1, 1])), kept(claim, scored([1, 0, 1, 1])))
    assert found.outcome == EXPLAINED
    assert "2 of 4 rows changed" in found.why


def test_rows_that_stand_for_fewer_units_are_named():
    claim = Claim("a.share", "no row has findings", at_most(0.0), estimand="exact_share")
    old, new = (kept(claim, Measurement("findings", (Sample("clean", 0.0, weight=n),))) for n in (500.0, 560.0))
    found = outcome(old, new)
    assert found.outcome == CONTRADICTS
    assert "another number of units: n = 500 in the report, 560 here" in found.why


def test_an_exact_row_that_is_not_the_worst_counts_too():
    claim = Claim("a.each", "at most 7", at_most(7.0), estimand="exact")
    old, new = (kept(claim, Measurement("bits", (Sample("a", 5.0), Sample("b", value)))) for value in (3.0, 4.0))
    assert outcome(old, new).outcome == EXPLAINED


def test_speeds_differ_as_far_as_their_intervals_say():
    claim = Claim("a.speed", "as fast", at_least(0.9), estimand="run_ratio")

    def blocks(ratio: float, jitter: float) -> Kept:
        rows = [
            Sample(f"b{b:02d}", 1.0 * (ratio + jitter * ((b * 7 + r) % 5 - 2) if arm == "new" else 1.0), arm, replicate=r)
            for b in range(8)
            for arm in ("new", "old")
            for r in range(2)
        ]
        return kept(claim, Measurement("tokens_per_s", tuple(rows)))

    assert outcome(blocks(1.2, 0.02), blocks(1.21, 0.02)).outcome in (AGREES, EXPLAINED)
    found = outcome(blocks(1.2, 0.02), blocks(1.5, 0.02))
    assert (found.outcome, found.significant) == (CONTRADICTS, ("drift",))


def test_what_was_not_measured_here_is_not_rerun():
    there = kept(RATE, scored(right(450)))
    missing = kept(RATE, None, not_evaluated(RATE, "vllm", "vllm: not installed"))
    assert outcome(there, missing).outcome == NOT_RERUN
    assert outcome(missing, there).outcome == NOT_RERUN
    assert outcome(there, kept(RATE, scored(right(450), invalid=("client_limited: late",)))).outcome == NOT_RERUN
    broken = kept(RATE, None, Verdict("error", "exception", "ValueError: no"))
    assert outcome(there, broken).outcome == CONTRADICTS
    assert outcome(broken, broken).outcome == NOT_RERUN


def test_many_claims_are_one_family():
    """A loss of seven in one direction is p = .016; among twenty claims it is no surprise."""
    rows = right(450)
    alone = beside.compare(kept(RATE, scored(rows)), kept(RATE, scored(flipped(rows, 7, 0))), "evals", LIMITS)
    other = beside.compare(kept(RATE, scored(rows)), kept(RATE, scored(flipped(rows, 3, 3))), "evals", LIMITS)
    assert beside.decide([alone], 0.05)[0].outcome == CONTRADICTS
    assert {each.outcome for each in beside.decide([alone, *[other] * 20], 0.05)} == {AGREES}


def test_noise_is_rarely_taken_for_a_contradiction():
    """Reruns of one subject that flips 4 % of its items: at most 5 % of whole defences see a contradiction."""
    from random import Random

    random, rows, false = Random(8), right(450), 0
    for _ in range(60):
        compared = []
        for _ in range(3):
            again = [1 - v if random.random() < (0.02 if v else 0.18) else v for v in rows]
            compared.append(beside.compare(kept(RATE, scored(rows)), kept(RATE, scored(again)), "evals", LIMITS))
        false += any(each.outcome == CONTRADICTS for each in beside.decide(compared, 0.05))
    assert false <= 8  # binom.isf(.005, 60, .05)


def test_the_limit_comes_from_the_plan():
    plan = {
        "golden": {"addresses": "aa", "other": "bb"},
        "claims": [
            {"claim": {"id": "R3.noise[addresses]", "bound": {"kind": "at_most", "limit": 0.07}}},
            {"claim": {"id": "E1.gain[other]", "bound": {"kind": "better_than", "limit": 0.0}}},
        ],
    }
    assert beside.limits_of(plan) == {"aa": 0.07}
