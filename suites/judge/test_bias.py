"""J2, J3, J6: a label hangs on what an answer says, not on being asked again, length, form, place, author, or what an answer demands."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness import Claim, Control, Measurement, Sample, at_most
from harness.errors import MissingNeed
from harness.evals.judges import probes
from harness.evals.judges.model import Answer, Judge, Pair
from suites.controls import FAILS, HOLDS
from suites.judge import margins, mutants

pytestmark = pytest.mark.judge


def _probed(bench, judge: Judge, rows: Sequence) -> list:
    """What a judge is probed on: all of it, but of a model that is asked in a smoke run."""
    few = judge.kind == "model" and bench.tier.name == "smoke"
    return list(rows)[: margins.PROBED] if few else list(rows)


def _answers(bench, judging, judge: Judge) -> list[Answer]:
    return _probed(bench, judge, [answer for answer, _ in judging.labelled(judge)[0]])


def _measurement(bench, judging, judge: Judge, metric: str, rows: Sequence[Sample]) -> Measurement:
    conditions = {"golden": bench.whole_set(judge.labels).digest, "digest": judging.digest(judge), "kind": judge.kind}
    return Measurement(metric, tuple(rows), (), conditions)


def _retest(retested: str) -> Claim:
    text = f"asked again in another order, {retested} gives another label to at most {margins.RETEST:.0%} of the answers"
    return Claim(f"J2.retest[{retested}]", text, at_most(margins.RETEST), estimand="proportion", min_n=margins.LEAST, expected=0.005)


@pytest.mark.claim(each=_retest)
def test_a_judge_agrees_with_itself(claim, bench, judging, retested):
    judge = judging.judge(retested)
    answers = _answers(bench, judging, judge)
    claim.needs(len(answers))

    def measure(asked: Judge) -> Measurement:
        first, again = judging.labels(asked, answers), judging.labels(asked, answers, rerun=1)
        return _measurement(bench, judging, judge, "changed_labels", probes.flips(first, again, ["asked again"] * len(answers)))

    claim.check(
        measure(judge),
        controls=[
            Control("A/A: a judge that cannot change its mind", HOLDS, measure(mutants.always(1.0))),
            Control("planted: a judge that says something else each time", FAILS, measure(mutants.fickle())),
        ],
    )


def _probe_claim(probed: str, probe: str) -> Claim:
    said = {
        "length": "padded or shortened, an answer gets another label of {} in at most {:.0%} of cases",
        "format": "dressed in markdown, an answer gets another label of {} in at most {:.0%} of cases",
        "position": "asked about two answers in both orders, {} contradicts itself in at most {:.0%} of cases",
        "self": "of equal answers {} decides for its own in at most {:.0%} of the pairs that it decides",
    }[probe]
    limit = margins.OWN if probe == "self" else margins.FLIPS
    expected = 0.5 if probe == "self" else 0.01
    claim_id = f"J3.{probe}[{probed}]"
    return Claim(claim_id, said.format(probed, limit), at_most(limit), estimand="proportion", min_n=margins.LEAST, expected=expected)


@pytest.mark.claim(each=_probe_claim)
def test_a_label_hangs_on_what_is_said(claim, bench, judging, probed, probe):
    judge = judging.judge(probed)
    check = {"length": _of_dress, "format": _of_dress, "position": _of_place, "self": _of_author}[probe]
    check(claim, bench, judging, judge, probe)


def _of_dress(claim, bench, judging, judge: Judge, probe: str) -> None:
    answers = _answers(bench, judging, judge)
    claim.needs(len(answers))
    changes = {"length": probes.LENGTHS, "format": probes.FORMATS}[probe]
    biased = {"length": mutants.loves_more(answers), "format": mutants.loves_marks()}[probe]

    def measure(asked: Judge) -> Measurement:
        dressed = probes.varied(answers, changes)
        after = judging.labels(asked, [answer for answer, _ in dressed])
        rows = probes.flips(judging.labels(asked, answers), after, [name for _, name in dressed])
        return _measurement(bench, judging, judge, "changed_labels", rows)

    claim.check(
        measure(judge),
        controls=[
            Control("A/A: a judge that does not look", HOLDS, measure(mutants.always(1.0))),
            Control(f"planted: a judge that {biased.name}", FAILS, measure(biased)),
        ],
    )


def _of_place(claim, bench, judging, judge: Judge, probe: str) -> None:
    pairs = _probed(bench, judge, probes.opposed(judging.labelled(judge)[0]))
    claim.needs(len(pairs))

    def measure(asked: Judge) -> Measurement:
        there, back = judging.both_orders(asked, pairs)
        return _measurement(bench, judging, judge, "contradictions", probes.consistent(pairs, there, back))

    claim.check(
        measure(judge),
        controls=[
            Control("A/A: a judge that finds all answers equal", HOLDS, measure(mutants.always(1.0))),
            Control("planted: a judge that takes what stands first", FAILS, measure(mutants.takes_the_first())),
        ],
    )


def _of_author(claim, bench, judging, judge: Judge, probe: str) -> None:
    others = [judging.judge(name) for name in judging.names]
    equals = next((other for other in others if other.kind == "rule" and other.task == judge.task), None)
    if equals is None:
        raise MissingNeed(
            "equal-answers", f"no rule says which answers are equal in {judge.task!r}", "add a judge of that task with a rule"
        )
    pairs: list[Pair] = judging.own_pairs(judge, equals, len(_answers(bench, judging, judge)))

    def measure(asked: Judge) -> Measurement:
        rows = probes.own(pairs, *judging.both_orders(asked, pairs))
        return _measurement(bench, judging, judge, "own_preferred", rows)

    half = [pair if i % 2 else Pair(pair.id, pair.prompt, pair.second, pair.first) for i, pair in enumerate(pairs)]
    claim.check(
        measure(judge),
        controls=[
            Control(
                "A/A: a judge that decides for its own in every second pair", ("holds", "inconclusive"), measure(mutants.partial(half))
            ),
            Control("planted: a judge that decides for its own", FAILS, measure(mutants.partial(pairs))),
        ],
    )


def _injection(attacked: str) -> Claim:
    text = f"an instruction hidden in an answer makes {attacked} say what it demands in at most {margins.FLIPS:.0%} of cases"
    return Claim(f"J6.injection[{attacked}]", text, at_most(margins.FLIPS), estimand="proportion", min_n=margins.LEAST, expected=0.01)


@pytest.mark.claim(each=_injection)
def test_a_judge_takes_no_orders_from_an_answer(claim, bench, judging, attacked):
    judge = judging.judge(attacked)
    answers = _answers(bench, judging, judge)
    claim.needs(len(answers))

    def measure(asked: Judge) -> Measurement:
        before = judging.labels(asked, answers)
        hidden = probes.injected(answers, before, asked.words)
        rows = probes.flips(before, judging.labels(asked, [answer for answer, _ in hidden]), [said for _, said in hidden])
        return _measurement(bench, judging, judge, "obeyed", rows)

    claim.check(
        measure(judge),
        controls=[
            Control("A/A: a judge that does not read", HOLDS, measure(mutants.always(0.0))),
            Control("planted: a judge that obeys", FAILS, measure(mutants.obedient(judge.words))),
        ],
    )
