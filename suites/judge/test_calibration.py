"""J1, J5: a judge beside people, with what chance and a constant judge would score; and the record of it, void when anything changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, identical
from harness.errors import EvidenceError
from harness.evals.judges import calibration, model
from harness.store import digest_json
from suites.controls import FAILS, HOLDS
from suites.judge import margins, mutants

pytestmark = pytest.mark.judge

Labels = tuple[Sample, ...]


def _beside_people(judging, judge):
    """The judge's labels, people's of the same answers, and the record that both make."""
    rows, _ = judging.labelled(judge)
    answers, people = [answer for answer, _ in rows], {answer.id: label for answer, label in rows}
    return answers, people, judging.labels(judge, answers), judging.calibration(judge)


def _conditions(bench, judge, record) -> dict:
    return {"golden": bench.whole_set(judge.labels).digest, "record": calibration.to_dict(record)}


def _kappa(judged: str) -> Claim:
    text = f"{judged} agrees with people beyond chance: kappa above {margins.FLOORS['kappa']:g}"
    return Claim(f"J1.kappa[{judged}]", text, at_least(margins.FLOORS["kappa"]), estimand="kappa", min_n=100, expected=0.8)


@pytest.mark.claim(each=_kappa)
def test_a_judge_agrees_with_people(claim, bench, judging, judged):
    judge = judging.judge(judged)
    answers, people, said, record = _beside_people(judging, judge)
    claim.needs(len(people))

    def measure(labels: Labels, truth: dict[str, float] = people) -> Measurement:
        rows = [replace(s, arm="new") for s in labels] + [Sample(item, label, "old") for item, label in truth.items()]
        note = f"base rate {record.base_rate:.3f}; a constant judge is right on {record.constant:.3f}; AC1 {_shown(record.ac1)}"
        return Measurement("judge_and_people", tuple(rows), (), _conditions(bench, judge, record), notes=(note,))

    theirs = tuple(Sample(item, label) for item, label in people.items())
    items = sorted(people, key=digest_json)  # a set that is sorted by label would hardly notice a row too high
    next_row = {item: people[below] for item, below in zip(items, [*items[1:], items[0]], strict=True)}
    claim.check(
        measure(said),
        controls=[
            Control("A/A: people against the same people", HOLDS, measure(theirs)),
            Control("planted: people's labels one row too high", FAILS, measure(theirs, next_row)),
            Control("planted: always yes, nothing to agree on", ("inconclusive",), measure(judging.labels(mutants.always(1.0), answers))),
        ],
    )  # fmt: skip


def _shown(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _rate_claim(kind: str, judged: str) -> Claim:
    what = {"tpr": "what people labelled positive, {} does too", "tnr": "what people labelled negative, {} does too"}[kind]
    bound = at_least(margins.FLOORS[kind])
    return Claim(f"J1.{kind}[{judged}]", what.format(judged), bound, estimand="proportion", min_n=margins.LABELS, expected=0.92)


def _check_rate(claim, bench, judging, judged: str, truth: float) -> None:
    judge = judging.judge(judged)
    answers, people, said, record = _beside_people(judging, judge)
    claim.needs(sum(label == truth for label in people.values()))

    def measure(labels: Labels) -> Measurement:
        rows = tuple(
            s if s.value is None else replace(s, value=float(s.value == truth), detail={**s.detail, "said": s.value})
            for s in labels
            if people[s.item] == truth
        )
        return Measurement("judge_as_people", rows, (), _conditions(bench, judge, record))

    right = tuple(Sample(item, label) for item, label in people.items())
    wrong = mutants.always(1 - truth)
    claim.check(
        measure(said),
        controls=[
            Control("A/A: people against the same people", HOLDS, measure(right)),
            Control(f"planted: a judge that {wrong.name} says, whatever it reads", FAILS, measure(judging.labels(wrong, answers))),
        ],
    )


@pytest.mark.claim(each=lambda judged: _rate_claim("tpr", judged))
def test_a_judge_finds_what_people_find(claim, bench, judging, judged):
    _check_rate(claim, bench, judging, judged, 1.0)


@pytest.mark.claim(each=lambda judged: _rate_claim("tnr", judged))
def test_a_judge_finds_no_more_than_people_do(claim, bench, judging, judged):
    _check_rate(claim, bench, judging, judged, 0.0)


def _bound(judged: str) -> Claim:
    return Claim(f"J5.bound[{judged}]", f"the calibration of {judged} is void when anything that shapes its labels changes", identical())


@pytest.mark.claim(each=_bound)
def test_a_calibration_is_bound_to_its_judge(claim, judging, judged):
    judge, record = judging.judge(judged), judging.calibration(judging.judge(judged))
    weights = judging.weights(judge)
    lock = calibration.write(record)

    def measure(digest) -> Measurement:
        """What becomes of a record that is bound by ``digest``."""
        bound = replace(record, digest=digest(judge, weights))
        rows = [Sample("nothing changed", float(bound.valid_for(digest(judge, weights))))]
        for what, (changed, model_digest) in model.variations(judge, weights).items():
            rows.append(Sample(f"changed: {what}", float(not bound.valid_for(digest(changed, model_digest)))))
        rows.append(Sample("the figures of judge.lock edited by hand", float(_refused(lock.replace('"shown": ', '"shown": 1')))))
        rows.append(Sample("judge.lock as it was written", float(not _refused(lock))))
        return Measurement("void_records", tuple(rows), (), {"record": calibration.to_dict(record)})

    claim.check(
        measure(model.digest),
        controls=[
            Control("A/A: bound by a digest of everything", HOLDS, measure(model.digest)),
            Control("planted: bound to the judge's name alone", FAILS, measure(lambda judge, weights: judge.name)),
            Control("planted: bound to the weights and the name", FAILS, measure(lambda judge, weights: judge.name + weights)),
        ],
    )


def _refused(lock: str) -> bool:
    try:
        calibration.read(lock)
    except EvidenceError:
        return True
    return False
