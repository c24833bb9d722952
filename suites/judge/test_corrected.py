"""J4: a judge's score corrected by people's labels of some answers says what people say of all; the judge's own does not.

People labelled all answers of these sets, so that the truth is known. The correction is told of some labels, drawn by
SHA-256; the rest are hidden from it. The old arm is the truth itself, known for each item: what is left is the error.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from harness import Claim, Control, Measurement, Sample, at_least
from harness.bounds import equivalent
from harness.stats.corrected import Corrected, ppi_difference
from harness.store import digest_json
from suites.controls import FAILS, HOLDS
from suites.judge import margins

pytestmark = pytest.mark.judge


def _drawn(items: Mapping[str, float], seed: str) -> list[str]:
    return sorted(items, key=lambda item: digest_json([seed, item]))[: margins.TOLD]


def _corrected(judged: str) -> Claim:
    text = f"the share that {judged} reports, corrected by {margins.TOLD} labels, is within {margins.CORRECTED:g} of what people say of all"
    bound = equivalent(margins.CORRECTED)
    return Claim(f"J4.corrected[{judged}]", text, bound, estimand="corrected_difference", support=(0.0, 1.0), min_n=margins.TOLD + 2)


@pytest.mark.claim(each=_corrected)
def test_a_corrected_score_is_what_people_say(claim, judging, judged):
    judge = judging.judge(judged)
    rows, _ = judging.labelled(judge)
    people = {answer.id: label for answer, label in rows}
    claim.needs(len(people))
    truth, said = sum(people.values()) / len(people), {s.item: s for s in judging.labels(judge, [answer for answer, _ in rows])}
    counted = judging.conditions(judge, judging.calibration(judge), corrected=True)

    def measure(told: list[str], labels: Mapping[str, float] = people, conditions=None) -> Measurement:
        scored = [Sample(item, s.value, "new", s.status) for item, s in said.items()]
        known = [Sample(item, truth, arm) for arm, items in (("old", people), ("old:human", told)) for item in items]
        read = [Sample(item, labels[item], "new:human") for item in told]
        raw = sum(s.value or 0.0 for s in said.values()) / len(said)
        note = f"people: {truth:.3f}; the judge, uncorrected: {raw:.3f}"
        return Measurement("share_by_people", (*scored, *known, *read), (), conditions or counted, notes=(note,))

    seed = claim.claim.id
    told = _drawn(people, seed)
    turned = set([item for item in told if people[item] == 0][: margins.TOLD // 3])
    changed = {**counted, "judge": digest_json([counted["judge"], "changed"])}
    claim.check(
        measure(told),
        controls=[
            Control("A/A: other labels drawn", HOLDS, measure(_drawn(people, f"{seed} again"))),
            Control("planted: a third of the labels turned", FAILS, measure(told, {**people, **dict.fromkeys(turned, 1.0)})),
            Control("planted: the judge was changed after its calibration", ("inconclusive",), measure(told, conditions=changed)),
        ],
    )


def _covers(judged: str) -> Claim:
    text = f"corrected 95 % intervals of {judged} hold the truth in {margins.COVERED:.0%} of {margins.DRAWS} samples of answers or more"
    return Claim(f"J4.covers[{judged}]", text, at_least(margins.COVERED), estimand="exact_share")


@pytest.mark.claim(each=_covers)
def test_a_corrected_interval_holds_the_truth(claim, judging, judged):
    """The labelled answers are the population; each sample is drawn from it with replacement, so that it is as wide as a new one."""
    judge = judging.judge(judged)
    rows, _ = judging.labelled(judge)
    people = {answer.id: label for answer, label in rows}
    claim.needs(len(people))
    truth = sum(people.values()) / len(people)
    scores = {s.item: s.value or 0.0 for s in judging.labels(judge, [answer for answer, _ in rows])}
    counted = judging.conditions(judge, judging.calibration(judge), corrected=True)

    def drawn(seed: str) -> list[Corrected]:
        found = []
        for draw in range(margins.DRAWS):
            sample = _sampled(sorted(people), f"{seed} {draw}")
            told, rest = sample[: margins.TOLD], sample[margins.TOLD :]
            found.append(ppi_difference([scores[i] for i in rest], [scores[i] for i in told], [people[i] for i in told], 0.025))
        return found

    def measure(found: list[Corrected], off: float = 0.0, width: float = 1.0) -> Measurement:
        rows = []
        for draw, one in enumerate(found):
            low, high = (one.estimate + off + width * (limit - one.estimate) for limit in (one.low, one.high))
            rows.append(Sample(f"draw {draw}", float(low <= truth <= high), detail={"low": low, "high": high}))
        return Measurement("covered", tuple(rows), (), {**counted, "truth": truth})

    found = drawn(claim.claim.id)
    claim.check(
        measure(found),
        controls=[
            Control("A/A: other samples", HOLDS, measure(drawn(f"{claim.claim.id} again"))),
            Control("planted: intervals half as wide", FAILS, measure(found, width=0.5)),
            Control("planted: off by a quarter, as an uncorrected judge may be", FAILS, measure(found, off=0.25)),
        ],
    )


def _sampled(items: list[str], seed: str) -> list[str]:
    """As many items, drawn with replacement by SHA-256: those to label, and as many again that are not."""
    return [items[int(digest_json([seed, n])[:13], 16) % len(items)] for n in range(2 * margins.TOLD)]
