"""What training gained, and what it must not have cost: paired, planned, against a base that was shown how.

Every claim here also records what the answers looked like before they were scored (its notes) and how many items change
when nothing does (psi_aa in its conditions). Slices are exploratory: they stand in the conditions and decide nothing.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, better_than, evals, non_inferior
from harness.evals import failures, health
from harness.stats import plan
from suites import controls
from suites.controls import planted, unchanged
from suites.evals import arms, margins

pytestmark = pytest.mark.evals


def _power_claim(primary: str) -> Claim:
    text = f"{primary} has items enough to see the planned gain of {margins.GAIN:g} with a probability of {margins.POWER:g}"
    return Claim(f"E7.gain[{primary}]", text, at_least(margins.POWER), estimand="exact")


@pytest.mark.claim(each=_power_claim)
def test_the_set_is_large_enough_for_the_gain(claim, bench, primary):
    n, alpha = bench.golden(primary).n, better_than().default_alpha

    def power(items: int) -> Measurement:
        found = plan.mcnemar_power(items, margins.GAIN_PSI, margins.GAIN, alpha)
        least = plan.superiority_gain(items, margins.GAIN_PSI, alpha, margins.POWER)
        detail = {"n": items, "gain": margins.GAIN, "psi": margins.GAIN_PSI, "alpha": alpha, "least_gain_seen": least}
        return Measurement("power", (Sample(primary, found, detail=detail),))

    needed = plan.superiority_n(margins.GAIN_PSI, margins.GAIN, alpha, margins.POWER)
    claim.check(
        power(n),
        controls=[
            Control("A/A: as many items as the plan asks for", controls.HOLDS, power(needed)),
            Control("planted: half of them", controls.FAILS, power(needed // 2)),
        ],
    )


def _gain_claim(primary: str, tuned: str) -> Claim:
    text = f"{tuned} answers more of {primary} than the base that is shown worked examples"
    return Claim(f"E1.gain[{primary},{tuned}]", text, better_than(), min_n=100, psi=margins.GAIN_PSI, expected=margins.GAIN)


@pytest.mark.claim(each=_gain_claim)
def test_tuned_beats_the_base_with_examples(claim, bench, primary, tuned):
    said = bench.settings.compare
    claim.needs(bench.golden(primary).n)
    new, old = bench.answers(tuned, primary), bench.answers(said.base, primary, shots=said.shots)
    again = bench.answers(tuned, primary, control=True)
    marked = arms.marked(new.samples, bench, primary)
    measured = arms.with_floor(arms.paired("correct", replace(new, samples=marked), old), again, new)
    bare = () if bench.tier.name == "smoke" else (health.sentence("base without examples", bench.answers(said.base, primary).samples),)
    conditions = {**measured.conditions, "slices": failures.slices(new.samples, old.samples)}
    nothing = arms.paired("correct", again, new)
    gained = arms.apart(nothing, margins.GAIN, claim.claim.id)
    claim.check(
        replace(measured, conditions=conditions, notes=(*measured.notes, *bare)),
        controls=[
            Control("A/A: the tuned subject against itself, answered again", controls.NOT_HOLDS, nothing),
            Control("planted in the scores: the planned gain", controls.HOLDS, gained),
            planted("the planned gain, with the arms swapped", arms.swapped(gained)),
            *arms.refused(measured),
        ],
    )


def _guardrail_claim(guardrail: str) -> Claim:
    text = f"training cost less than the margin on {guardrail}, which it was not meant to change"
    margin, psi = margins.GUARDRAIL[guardrail], margins.PSI[guardrail]
    return Claim(f"E2.guardrail[{guardrail}]", text, non_inferior(margin), psi=psi, min_n=200)


@pytest.mark.claim(each=_guardrail_claim)
def test_nothing_is_lost_on_the_guardrails(claim, bench, guardrail):
    said, margin = bench.settings.compare, claim.claim.bound.limit
    claim.needs(bench.golden(guardrail).n)
    new, old = bench.answers(said.tuned, guardrail), bench.answers(said.base, guardrail)
    again = bench.answers(said.base, guardrail, control=True)
    nothing = arms.paired("correct", again, old)
    measured = arms.with_floor(arms.paired("correct", new, old), again, old)
    loss = replace(nothing, samples=evals.plant_loss(nothing.samples, 2 * margin, claim.claim.id))
    claim.check(measured, controls=[unchanged(nothing), planted(f"a loss of {2 * margin:g}", loss), *arms.refused(measured)])
