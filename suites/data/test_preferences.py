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
    said = bench.data.audit(paired).reports["preferences"].summary

    def measured(longer: int, shorter: int) -> Measurement:
        counts = {"pairs whose chosen answer is the longer": longer, "pairs whose chosen answer is the shorter": shorter}
        return _shares(bench, paired, "chosen_is_longer", counts)

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

    def measured(flipped: int, others: int) -> Measurement:
        return _shares(bench, paired, "flipped", {"rows ranked the other way": flipped, "all other rows": others})

    flipped = said["flipped"]["num"]
    n = audit.rows.n
    claim.check(
        measured(flipped, n - flipped),
        controls=[
            Control("A/A: none is flipped", ("holds",), measured(0, n)),
            Control("planted: every tenth is", ("fails",), measured(-(-n // 10), n - -(-n // 10))),
        ],
    )


def _shares(bench, paired: str, metric: str, counts: dict[str, int]) -> Measurement:
    """Rows counted in two heaps: those of the first name have the value 1."""
    audit = bench.data.audit(paired)
    values = zip(counts.items(), (1.0, 0.0), strict=True)
    samples = tuple(Sample(what, value, weight=float(count)) for (what, count), value in values if count)
    told = {"dataset": paired, "rows": audit.rows.n, "preferences": audit.reports["preferences"].summary}
    return Measurement(metric, samples, (bench.data.subject(paired),), told)
