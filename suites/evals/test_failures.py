"""What goes wrong, by type; and one iteration that was driven by it, proven on items that nobody had looked at."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, at_most, better_than, evals, non_inferior
from harness.evals import failures
from suites import controls, trained
from suites.controls import planted, unchanged
from suites.evals import arms, margins

pytestmark = pytest.mark.evals


# --- failures ---------------------------------------------------------------------------------------


def _listed_claim(extracted: str, tuned: str) -> Claim:
    text = f"all failures of {tuned} on {extracted} are listed, and at least {margins.ANALYSED} have a type"
    return Claim(f"E8.listed[{extracted},{tuned}]", text, at_least(margins.ANALYSED), estimand="exact")


@pytest.mark.claim(each=_listed_claim)
def test_failures_are_listed(claim, bench, extracted, tuned):
    answers = bench.answers(tuned, extracted)
    wrong = {s.item for s in answers.samples if s.value != 1}

    def measure(found: list[failures.Failure]) -> Measurement:
        missing = wrong - {f.item for f in found}
        clusters = [
            {"type": c.type, "fields": list(c.fields), "n": c.n, "examples": [_shown(f) for f in c.examples]}
            for c in failures.clusters(found)
        ]  # fmt: skip
        said = {"wrong": len(wrong), "types": dict(Counter(f.type for f in found)), "clusters": clusters}
        rows = (
            Sample("failures with a type", float(sum(f.type != "other" for f in found)), detail={"failures": list(map(_shown, found))}),
        )
        invalid = (f"{len(missing)} failures are not listed",) if missing else ()
        return Measurement("failures", rows, (answers.subject,), said, invalid=invalid)

    found = failures.analysed(answers.samples)
    claim.check(
        measure(found),
        controls=[
            Control("planted: one failure is left out", ("inconclusive",), measure(found[1:])),
            Control("planted: none has a type", ("fails",), measure([replace(f, type="other") for f in found])),
        ],
    )


def _shown(failure: failures.Failure) -> dict[str, object]:
    return {**asdict(failure), "fields": list(failure.fields), "mined": failures.mined(failure.item)}


def _other_claim(extracted: str, tuned: str) -> Claim:
    text = f"the code book covers the failures of {tuned} on {extracted}: few are of no type"
    return Claim(f"E8.covered[{extracted},{tuned}]", text, at_most(margins.OTHER), min_n=margins.ANALYSED, expected=0.02)


@pytest.mark.claim(each=_other_claim)
def test_the_code_book_covers_the_failures(claim, bench, extracted, tuned):
    answers = bench.answers(tuned, extracted)
    found = failures.analysed(answers.samples)
    rows = tuple(Sample(f.item, float(f.type == "other"), detail=_shown(f)) for f in found)
    many = Measurement("untyped", controls.with_share(rows, 3 * claim.claim.bound.limit, claim.claim.id))
    claim.check(
        Measurement("untyped", rows, (answers.subject,), dict(answers.conditions)),
        controls=[planted(f"{3 * claim.claim.bound.limit:.0%} of no type", many)],
    )


def _stable_claim(extracted: str, tuned: str) -> Claim:
    text = f"two rules that share the code book alone type those failures of {tuned} on {extracted} alike that nobody had read (alpha)"
    bound = at_least(margins.STABLE)
    return Claim(f"E8.stable[{extracted},{tuned}]", text, bound, estimand="alpha_nominal", min_n=margins.ANALYSED, expected=0.85)


@pytest.mark.claim(each=_stable_claim)
def test_the_types_are_stable(claim, bench, extracted, tuned):
    """Both rules were written on the mined half. That people agree is another matter: ``failures.blind_rows`` gives them their sheets."""
    answers = bench.answers(tuned, extracted)
    found = failures.analysed(s for s in answers.samples if not failures.mined(s.item))

    def measure(second: list[str]) -> Measurement:
        rows = [
            Sample(f.item, float(failures.TYPES.index(type_)), replicate=rater, detail={"type": type_})
            for f, other in zip(found, second, strict=True)
            for rater, type_ in enumerate((f.type, other))
        ]
        return Measurement("failure_types", tuple(rows), (answers.subject,), {"raters": ["by_fields", "by_words"]})

    types = [f.second for f in found]
    claim.check(
        measure(types),
        controls=[
            Control("A/A: a rule beside itself", controls.HOLDS, measure([f.type for f in found])),
            Control("planted: a rater who looks at the next answer", controls.FAILS, measure([*types[1:], *types[:1]])),
        ],
    )


# --- one iteration ----------------------------------------------------------------------------------


def _half(bench, primary, iterated, *, control: bool = False) -> tuple[Measurement, Measurement, Measurement]:
    """The iterated subject against the tuned one on the mined half and on the rest; and the tuned one against itself on the rest."""
    tuned = bench.settings.compare.tuned
    new, old = bench.answers(iterated, primary), bench.answers(tuned, primary)
    again = bench.answers(tuned, primary, control=True)
    pairs = arms.with_floor(arms.paired("correct", new, old), again, old)
    nothing = arms.paired("correct", again, old)
    return (
        arms.of_items(pairs, failures.mined),
        arms.of_items(pairs, lambda item: not failures.mined(item)),
        arms.of_items(nothing, lambda item: not failures.mined(item)),
    )


def _fixed_claim(primary: str, iterated: str) -> Claim:
    text = f"{iterated} answers some of the failures that were read: counted, and no proof, since chance alone mends some"
    return Claim(f"E9.fixed[{primary},{iterated}]", text, at_least(1), estimand="exact")


@pytest.mark.claim(each=_fixed_claim)
def test_failures_that_were_read_are_fixed(claim, bench, primary, iterated):
    mined, _, _ = _half(bench, primary, iterated)
    tuned = bench.settings.compare.tuned
    chance = arms.of_items(
        arms.paired("correct", bench.answers(tuned, primary, control=True), bench.answers(tuned, primary)), failures.mined
    )

    def counted(pairs: Measurement) -> dict[str, int]:
        right = {arm: {s.item for s in pairs.samples if s.arm == arm and s.value == 1} for arm in ("new", "old")}
        items = len({s.item for s in pairs.samples})
        return {
            "items": items,
            "wrong_before": items - len(right["old"]),
            "fixed": len(right["new"] - right["old"]),
            "broken": len(right["old"] - right["new"]),
        }

    said = {"mined": counted(mined), "by_chance": counted(chance), **mined.conditions}
    said |= trained.told(bench, iterated)
    claim.check(
        Measurement("fixed", (Sample("fixed", float(said["mined"]["fixed"]), detail=said["mined"]),), mined.subjects, said),
        controls=[Control("planted: none is fixed", controls.FAILS, Measurement("fixed", (Sample("fixed", 0.0),)))],
    )


def _heldout_claim(primary: str, iterated: str) -> Claim:
    text = f"{iterated} breaks nothing beyond the margin on the half of {primary} that nobody looked at"
    bound = non_inferior(margins.ITERATION)
    return Claim(f"E9.heldout[{primary},{iterated}]", text, bound, psi=margins.ITERATION_PSI, min_n=120)


@pytest.mark.claim(each=_heldout_claim)
def test_nothing_is_broken_on_items_nobody_looked_at(claim, bench, primary, iterated):
    claim.needs(sum(not failures.mined(item["id"]) for item in bench.golden(primary).items))
    _, rest, nothing = _half(bench, primary, iterated)
    loss = 3 * claim.claim.bound.limit
    worse = replace(nothing, samples=evals.plant_loss(nothing.samples, loss, claim.claim.id))
    claim.check(rest, controls=[unchanged(nothing), planted(f"a loss of {loss:g}", worse), *arms.refused(rest)])


def _better_claim(primary: str, iterated: str) -> Claim:
    text = f"{iterated} answers more of the half of {primary} that nobody looked at"
    psi, gain = margins.ITERATION_PSI, margins.ITERATION_GAIN
    return Claim(f"E9.gain[{primary},{iterated}]", text, better_than(), psi=psi, min_n=120, expected=gain)


@pytest.mark.claim(each=_better_claim)
def test_the_iteration_helps_on_items_nobody_looked_at(claim, bench, primary, iterated):
    claim.needs(sum(not failures.mined(item["id"]) for item in bench.golden(primary).items))
    _, rest, nothing = _half(bench, primary, iterated)
    gained = arms.apart(nothing, margins.GAIN, claim.claim.id)
    claim.check(
        rest,
        controls=[
            Control("A/A: the tuned subject against itself, answered again", controls.NOT_HOLDS, nothing),
            Control("planted in the scores: a gain", controls.HOLDS, gained),
            planted("the gain, with the arms swapped", arms.swapped(gained)),
            *arms.refused(rest),
        ],
    )
