"""Whether a score could be memory: canaries, controls of the same form with other words or other numbers, items that leaked.

A model that has seen the golden set knows the strings that were published beside it, answers with the numbers it remembers,
and loses its score when the items that leaked are left out. Each of the three is planted here and must be caught.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, better_than, evals, golden, identical, non_inferior
from harness.evals import metamorphic
from harness.golden import GoldenSet
from harness.judge import judge
from harness.stats import families
from harness.types import Generation, Scored
from suites import controls
from suites.controls import planted, unchanged
from suites.evals import arms, margins

pytestmark = pytest.mark.evals

# Words that every model of English has read many times over, in their order: what a known canary looks like.
KNOWN = "the quick brown fox jumps over the lazy dog and to be or not to be that is the question"


# --- canaries ---------------------------------------------------------------------------------------


def _canary_claim(tuned: str) -> Claim:
    text = f"{tuned} does not know the strings that are published beside the golden sets: none is too likely among random twins, after Holm"
    return Claim(f"E10.canary[{tuned}]", text, at_least(margins.CANARY), estimand="exact")


@pytest.mark.claim(each=_canary_claim)
def test_canaries_are_unknown(claim, bench, tuned):
    said = bench.settings.compare
    named = (said.primary, *said.guardrails)
    texts = {name: _canaries(golden.manifest_entry(name, bench.settings.golden)["sha256"]) for name in named}
    words = KNOWN.split()
    twins = [" ".join(sorted(words, key=lambda w, n=n: hashlib.sha256(f"{n}:{w}".encode()).digest())) for n in range(margins.TWINS)]
    texts["known"] = [f" {text}" for text in (KNOWN, *twins)]
    ranks = bench.cached("canaries", {**bench.inputs(tuned), "texts": texts}, lambda: _ranks(bench.engine(tuned), texts))

    def measure(*names: str) -> Measurement:
        adjusted = families.holm([ranks[name]["p"] for name in names])
        rows = tuple(Sample(name, p, detail=ranks[name]) for name, p in zip(names, adjusted, strict=True))
        return Measurement("canary", rows, (bench.subject(tuned),), {"twins": margins.TWINS})

    claim.check(
        measure(*named),
        controls=[Control("planted: a text that the model knows, among its words in other orders", controls.FAILS, measure("known"))],
    )


def _canaries(digest: str) -> list[str]:
    """The digest that the manifest publishes beside the set, and twins of the same form that nobody published."""
    return [digest[:32], *(hashlib.sha256(f"{digest}:twin:{n}".encode()).hexdigest()[:32] for n in range(margins.TWINS))]


def _ranks(engine, texts) -> dict[str, dict[str, float]]:
    """For each canary the share of it and its twins that are at least as likely: exchangeable, hence a p value."""
    found = {}
    for name, (canary, *twins) in texts.items():
        scores = []
        for start in range(0, len(twins) + 1, 20):
            part = (canary, *twins)[start : start + 20]
            lead = "sha256 = " if name != "known" else "A sentence:"
            scored = engine.logprobs([Scored(f"{name}:{start}:{n}", lead, (text,)) for n, text in enumerate(part)])
            scores += [math.fsum(one.logprobs[0]) for one in scored]
        at_least_as_likely = sum(score >= scores[0] for score in scores)
        found[name] = {"p": at_least_as_likely / len(scores), "rank": float(at_least_as_likely), "logprob": scores[0]}
    return found


# --- other words, other content ---------------------------------------------------------------------


def _gap_claim(varied: str, variant: str) -> Claim:
    text = f"the score on {varied} is no memory of its items: asked {variant} it falls by less than the margin"
    return Claim(f"E10.{variant}[{varied}]", text, non_inferior(margins.GAP), psi=0.20, min_n=100)


@pytest.mark.claim(each=_gap_claim)
def test_the_score_survives_contamination_controls(claim, bench, varied, variant):
    claim.needs(bench.golden(varied, control=True).n)
    tuned, margin = bench.settings.compare.tuned, claim.claim.bound.limit
    first, again = bench.answers(tuned, varied), bench.answers(tuned, varied, control=True)
    changed = bench.answers(tuned, varied, control=True, variant=variant)
    nothing = arms.paired("correct", again, first)
    measured = arms.with_floor(arms.paired("correct", changed, first), again, first)
    memory = arms.swapped(arms.apart(nothing, 2.5 * margin, claim.claim.id))
    claim.check(
        measured,
        controls=[
            unchanged(nothing),
            planted(f"{2.5 * margin:.0%} of the items known by heart, and their controls not", memory),
            *_by_heart(bench.golden(varied, control=True), variant),
            *arms.refused(measured),
        ],
    )


def _by_heart(asked: GoldenSet, variant: str) -> list[Control]:
    """A subject that knows every item by heart, through the real scorer: where the variant asks for other content it must be caught."""
    changed = metamorphic.vary(asked, variant)
    if all(new["target"] == old["target"] for new, old in zip(changed.items, asked.items, strict=True)):
        return []  # other words for the same content: what is remembered is still right
    remembered = [Generation(item["id"], evals.answer_text(item["target"]), "stop", 0, 0) for item in asked.items]
    rows = evals.pair(evals.score_answers(changed, remembered), evals.score_answers(asked, remembered))
    return [Control("planted: a subject that answers every item by heart", controls.FAILS, Measurement("correct", rows))]


# --- items that leaked ------------------------------------------------------------------------------


def _leak_claim(primary: str) -> Claim:
    text = f"a gain on {primary} that rests on leaked items does not hold, and one that does without them does"
    return Claim(f"E10.leaked[{primary}]", text, identical())


@pytest.mark.claim(each=_leak_claim)
def test_a_gain_that_rests_on_leaked_items_is_refused(claim, bench, primary):
    """Planted in the scores of a subject that gained nothing: only the items marked as leaked are better."""
    answers = bench.answers(bench.settings.compare.tuned, primary)
    gain = Claim("planted.gain", "a gain", better_than(), min_n=1)
    equal = arms.apart(arms.paired("correct", answers, answers), 0.0, claim.claim.id)
    leaked = controls.chosen(equal.samples, margins.GAIN, f"leaked:{claim.claim.id}")

    def outcome(measurement: Measurement) -> dict[str, str]:
        found = judge(gain, measurement)
        return {"outcome": found.outcome, "reason": found.reason}

    def told(rows: tuple[Sample, ...]) -> tuple[Sample, ...]:
        return tuple(replace(s, detail={**s.detail, "contaminated": True}) if s.item in leaked else s for s in rows)

    better = tuple(replace(s, value=1.0 if s.arm == "new" else 0.0) if s.item in leaked else s for s in equal.samples)
    honest = arms.apart(equal, margins.GAIN, claim.claim.id)
    seen = {
        "the leak, marked": (outcome(replace(equal, samples=told(better))), False),
        "the leak, not marked": (outcome(replace(equal, samples=better)), True),
        "as large a gain, and as many items marked": (outcome(replace(honest, samples=told(honest.samples))), True),
    }

    def measure(rows) -> Measurement:
        samples = tuple(Sample(name, float((got["outcome"] == "holds") == holds), detail=got) for name, (got, holds) in rows.items())
        return Measurement("leaked_items", samples, (answers.subject,), {"leaked": len(leaked)})

    blind = {**seen, "the leak, marked": (seen["the leak, not marked"][0], False)}
    claim.check(measure(seen), controls=[Control("planted: a judge that does not see the marks", controls.FAILS, measure(blind))])
