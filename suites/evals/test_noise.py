"""What changes when nothing does, and what must not: reruns, quarantine, other dress; and the answers a person approved."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, at_most, identical
from harness.evals import noise
from suites import controls
from suites.controls import planted
from suites.evals import baseline, margins

pytestmark = pytest.mark.evals


# --- reruns -----------------------------------------------------------------------------------------


def _noise_claim(primary: str) -> Claim:
    text = f"the same questions of {primary} asked again, {margins.RERUNS} times in other orders: few items change between right and wrong"
    return Claim(f"R3.noise[{primary}]", text, at_most(margins.FLIPS), min_n=100, expected=margins.EXPECTED_FLIPS)


@pytest.mark.claim(each=_noise_claim)
def test_a_rerun_changes_few_items(claim, bench, primary):
    claim.needs(bench.golden(primary, control=True).n)
    first, reruns = _runs(bench, primary)
    rows = noise.flips(first.samples, [run.samples for run in reruns])
    limit = claim.claim.bound.limit
    flaky = [asdict(one) for one in noise.flaky(first.samples, [run.samples for run in reruns])]
    psi = [round(noise.discordance(run.samples, first.samples), 6) for run in reruns]
    conditions = {"reruns": [dict(run.conditions) for run in reruns], "psi_aa": psi, "flaky": flaky}
    many = Measurement("flips", controls.with_share(rows, 2.5 * limit, claim.claim.id))
    still = Measurement("flips", noise.flips(first.samples, [_as_first(first, reruns[0])]))
    claim.check(
        Measurement("flips", rows, (first.subject,), conditions),
        controls=[
            Control("A/A: the first answers beside themselves", controls.HOLDS, still),
            planted(f"{2.5 * limit:.0%} of the items flip", many),
        ],
    )


def _as_first(first, run) -> list[Sample]:
    asked = {s.item for s in run.samples}
    return [s for s in first.samples if s.item in asked]


def _runs(bench, primary):
    tuned = bench.settings.compare.tuned
    first = bench.answers(tuned, primary)
    return first, [bench.answers(tuned, primary, control=True, rerun=number) for number in range(1, margins.RERUNS + 1)]


def _flaky_claim(primary: str) -> Claim:
    text = f"items of {primary} are put aside as flaky by what reruns measured, right or wrong alike; the first answer counts"
    return Claim(f"G3.flaky[{primary}]", text, identical())


@pytest.mark.claim(each=_flaky_claim)
def test_flaky_items_are_measured_not_rerun_until_green(claim, bench, primary):
    first, reruns = _runs(bench, primary)
    later = [run.samples for run in reruns]
    aside = {one.item for one in noise.flaky(first.samples, later)}
    counts = bench.answers(bench.settings.compare.tuned, primary)  # asked for after the reruns: none may have taken the place of the first

    def measure(counted, quarantined) -> Measurement:
        """One row an item: what counts is what came first, and it is put aside if, and only if, its score changed."""
        score = {s.item: s.value == 1 for s in counted}
        rows = []
        for one in noise.flips(first.samples, later):
            same, right_place = score[one.item] == one.detail["first"], (one.item in quarantined) == (one.value == 1)
            rows.append(Sample(one.item, float(same and right_place), detail={**one.detail, "counted": score[one.item]}))
        return Measurement("quarantine", tuple(rows), (first.subject,), {"flaky": sorted(quarantined)})

    turned = _with_a_flip(first.samples, later)
    claim.check(
        measure(counts.samples, aside),
        controls=[
            Control("planted: rerun until green", controls.FAILS, measure(noise.best_of(*turned), aside)),
            Control(
                "planted: a stable item put aside", controls.FAILS, measure(first.samples, aside ^ {_stable(first.samples, later, aside)})
            ),
        ],
    )


def _stable(first, later, aside) -> str:
    return min({s.item for s in later[0]} - aside)


def _with_a_flip(first, later):
    """The runs, with one item that was wrong at first right in the last rerun: there may be none of its own accord."""
    wrong = {s.item for s in first if s.value != 1}
    item = min(s.item for s in later[-1] if s.item in wrong)
    return first, [*later[:-1], [replace(s, value=1.0, status="ok") if s.item == item else s for s in later[-1]]]


# --- another dress ----------------------------------------------------------------------------------


def _same_claim(varied: str, variant: str) -> Claim:
    text = f"asked in another dress ({variant}) few items of {varied} change between right and wrong"
    return Claim(f"G4.same[{varied},{variant}]", text, at_most(margins.SAME), min_n=100, expected=margins.EXPECTED_FLIPS)


@pytest.mark.claim(each=_same_claim)
def test_another_dress_changes_few_items(claim, bench, varied, variant):
    claim.needs(bench.golden(varied, control=True).n)
    tuned, limit = bench.settings.compare.tuned, claim.claim.bound.limit
    first = bench.answers(tuned, varied)

    def measure(answers) -> Measurement:
        rows = noise.flips(first.samples, [answers.samples])
        return Measurement("flips", rows, (first.subject,), {"variant": variant, "new": dict(answers.conditions)})

    nothing = measure(bench.answers(tuned, varied, control=True))
    many = replace(nothing, samples=controls.with_share(nothing.samples, 2.5 * limit, claim.claim.id))
    claim.check(
        measure(bench.answers(tuned, varied, control=True, variant=variant)),
        controls=[Control("A/A: asked again as it was", controls.HOLDS, nothing), planted(f"{2.5 * limit:.0%} of the items change", many)],
    )


# --- what a person approved ---------------------------------------------------------------------------


def _exact_claim(exact: str) -> Claim:
    return Claim(f"G2.exact[{exact}]", f"the base answers the approved items to the character as approved, in {exact}", identical())


@pytest.mark.claim(each=_exact_claim)
def test_approved_answers_are_given_again(claim, bench, exact):
    approved = baseline.exact(bench.settings)
    name, items = bench.settings.compare.base, approved["items"]
    said = baseline.answer(bench, name, baseline.asked(bench.whole_set(approved["set"]), list(items)))
    other = said["weights"] != approved["weights"]

    def measure(answers) -> Measurement:
        rows = tuple(
            Sample(item, float(answers[item] == one["answer"]), detail={**one, "found": answers[item]}) for item, one in items.items()
        )
        conditions = {key: approved[key] for key in ("set", "weights", "noise", "lead")} | {"engine": said["engine"]}
        invalid = (f"weights {said['weights'][:12]}, approved {approved['weights'][:12]}: approve a new baseline",) if other else ()
        return Measurement("approved_answers", rows, (bench.subject(name),), conditions, invalid=invalid)

    first = min(items)
    changed = {**said["answers"], first: _one_character(said["answers"][first])}
    controlled = [] if other else [Control("planted: one character of one answer", controls.FAILS, measure(changed))]
    claim.check(measure(said["answers"]), controls=controlled)


def _one_character(text: str) -> str:
    middle = len(text) // 2
    return text[:middle] + ("x" if text[middle : middle + 1] != "x" else "y") + text[middle + 1 :]


def _rate_claim(approved: str, rate: float) -> Claim:
    text = f"the pass rate on {approved} lies less than {margins.APPROVED:g} below the approved {rate:g}"
    return Claim(f"G2.rate[{approved}]", text, at_least(max(0.01, round(rate - margins.APPROVED, 4))), min_n=200, expected=rate)


@pytest.mark.claim(each=_rate_claim)
def test_the_pass_rate_is_kept(claim, bench, approved, rate):
    claim.needs(bench.golden(approved).n)
    tuned, limit = bench.settings.compare.tuned, claim.claim.bound.limit
    answers = bench.answers(tuned, approved)
    measured = Measurement("correct", tuple(answers.samples), (answers.subject,), {**answers.conditions, "approved": rate})
    low = replace(measured, samples=controls.with_share(measured.samples, limit - margins.APPROVED, claim.claim.id))
    even = replace(measured, samples=controls.with_share(measured.samples, rate, claim.claim.id))
    claim.check(
        measured,
        controls=[
            Control("A/A: exactly the approved rate", controls.HOLDS, even),
            planted(f"a rate {2 * margins.APPROVED:g} below the approved one", low),
        ],
    )
