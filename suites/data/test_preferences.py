"""D8: in a preference pair the better answer differs from the worse, and more than by its length."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, Sample, at_most, identical, within
from suites.data import checks, margins

pytestmark = pytest.mark.data


def _differ(paired: str) -> Claim:
    return Claim(
        f"D8.differ[{paired}]", f"in every pair of {paired} both answers are there, differ, and answer the same prompt", identical()
    )


@pytest.mark.claim(each=_differ)
def test_chosen_differs_from_rejected(claim, bench, paired):
    kinds = {"preferences": None}
    claim.check(checks.measured(bench, paired, kinds), controls=checks.controls(bench, paired, kinds))


def _length(paired: str) -> Claim:
    low, high = margins.LONGER
    text = f"length alone does not tell chosen from rejected in {paired}: the chosen is the longer in {low:.0%} to {high:.0%} of the pairs"
    return Claim(f"D8.length[{paired}]", text, within(low, high), estimand="exact_share")


@pytest.mark.claim(each=_length)
def test_length_alone_does_not_tell_the_better_answer(claim, bench, paired):
    audit = bench.data.audit(paired)
    said = audit.reports["preferences"].summary
    told = {"dataset": paired, "rows": audit.rows.n, "preferences": said}

    def measured(longer: int, shorter: int) -> Measurement:
        counts = {"pairs whose chosen answer is the longer": (1.0, longer), "pairs whose chosen answer is the shorter": (0.0, shorter)}
        samples = tuple(Sample(what, value, weight=float(count)) for what, (value, count) in counts.items() if count)
        return Measurement("chosen_is_longer", samples, (bench.data.subject(paired),), told)

    words = said["length"]["words"]
    claim.check(
        measured(words["wins"], words["losses"]),
        controls=[
            Control("A/A: as often longer as shorter", ("holds",), measured(50, 50)),
            Control("planted: the longer one is always chosen", ("fails",), measured(words["wins"] + words["losses"] or 100, 0)),
        ],
    )


def _ranked(paired: str) -> Claim:
    text = f"of the pairs of {paired} that are there more than once at most {margins.FLIPPED:.0%} are ranked both ways"
    return Claim(f"D8.flipped[{paired}]", text, at_most(margins.FLIPPED), estimand="exact_share")


@pytest.mark.claim(each=_ranked)
def test_few_pairs_are_ranked_both_ways(claim, bench, paired):
    audit = bench.data.audit(paired)
    said = audit.reports["preferences"].summary
    told = {"dataset": paired, "rows": audit.rows.n, "preferences": said}

    def measured(flipped: int, others: int) -> Measurement:
        counts = {"rows ranked the other way": (1.0, flipped), "all other rows": (0.0, others)}
        samples = tuple(Sample(what, value, weight=float(count)) for what, (value, count) in counts.items() if count)
        return Measurement("flipped", samples, (bench.data.subject(paired),), told)

    flipped = said["flipped"]["num"]
    n = audit.rows.n
    claim.check(
        measured(flipped, n - flipped),
        controls=[
            Control("A/A: none is flipped", ("holds",), measured(0, n)),
            Control("planted: every tenth is", ("fails",), measured(-(-n // 10), n - -(-n // 10))),
        ],
    )
