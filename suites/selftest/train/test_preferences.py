"""Preference pairs and margins without a model: pairing, splitting, the arithmetic of DPO, wins at equal length."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Sample
from harness.errors import ConfigError, EngineError, SubjectError
from harness.train import preferences
from harness.train.preferences import LogProbs, is_held, length_controlled, log_probs, margin, pairs
from harness.types import Prompt, TokenLogprobs

pytestmark = pytest.mark.selftest

checked = settings(derandomize=True, deadline=None)
logs = st.floats(-300, 0, allow_nan=False)


def asked(count: int) -> list[Prompt]:
    return [Prompt(f"p{i}", ({"role": "user", "content": f"question {i}"},)) for i in range(count)]


def right(item: str, answer: str) -> bool:
    return answer.strip() == f"gold {item}"


def gold(prompts) -> dict[str, str]:
    return {p.id: f"gold {p.id}" for p in prompts}


drawn = st.lists(st.lists(st.sampled_from(["gold", " gold", "wrong", "worse", "-"]), max_size=4), min_size=1, max_size=12)


def answers_of(words) -> dict[str, list[str]]:
    """Lists of words as the answers to p0, p1 ...; "gold" and " gold" are right in two ways."""
    return {f"p{i}": [f"{w} p{i}" if "gold" in w else w for w in row] for i, row in enumerate(words)}


@checked
@given(drawn, st.floats(0, 0.99), st.integers(0, 9))
def test_pairs_are_what_was_sampled(words, held, seed):
    prompts, answers = asked(len(words)), answers_of(words)
    found = pairs(prompts, answers, gold(prompts), right, held=held, seed=seed)
    both = [*found.train, *found.held]
    assert {p.id for p in both} == {i for i, row in answers.items() if any(not right(i, a) for a in row)}
    assert Counter(p.id for p in both).most_common(1)[0][1] == 1 if both else True
    for pair in both:
        assert right(pair.id, pair.chosen) and not right(pair.id, pair.rejected)
        assert pair.rejected == next(a for a in answers[pair.id] if not right(pair.id, a))
        assert pair.own == any(right(pair.id, a) for a in answers[pair.id])
        assert pair.chosen == next((a for a in answers[pair.id] if right(pair.id, a)), f"gold {pair.id}")
    facts = found.facts
    assert facts["pairs"] == len(both) == len(found.train) + len(found.held) and facts["held"] == len(found.held)
    assert facts["own"] == sum(p.own for p in both) and facts["prompts"] == len(words)
    assert facts["answers"] == sum(map(len, words)) and facts["right"] == sum("gold" in w for row in words for w in row)
    assert found.rows == [(p.messages, p.chosen, p.rejected) for p in found.train]


@checked
@given(st.integers(0, 99), st.floats(0.05, 0.95))
def test_the_split_goes_by_the_prompt_alone(seed, share):
    prompts = asked(40)
    answers = {p.id: ["wrong"] for p in prompts}
    found = pairs(prompts, answers, gold(prompts), right, held=share, seed=seed)
    assert {p.id for p in found.held} == {p.id for p in prompts if is_held(p.messages, share, seed)}
    fewer = pairs(prompts[5:20], answers, gold(prompts), right, held=share, seed=seed)  # others beside it change nothing
    assert {p.id for p in fewer.held} == {p.id for p in found.held} & {p.id for p in prompts[5:20]}
    renamed = [Prompt(f"other {p.id}", p.messages) for p in prompts]
    one_gold = {p.id: "gold" for p in renamed}
    again = pairs(renamed, {p.id: ["wrong"] for p in renamed}, one_gold, lambda _, answer: answer == "gold", held=share, seed=seed)
    assert {p.messages[0]["content"] for p in again.held} == {p.messages[0]["content"] for p in found.held}


def test_the_share_held_out_is_the_share_asked_for():
    prompts = asked(4000)
    for share in (0.1, 0.4, 0.8):
        held = sum(is_held(p.messages, share, 0) for p in prompts)
        assert abs(held - 4000 * share) < 4 * math.sqrt(4000 * share * (1 - share))
    assert not any(is_held(p.messages, 0.0, 0) for p in prompts)
    assert any(is_held(p.messages, 0.4, 0) != is_held(p.messages, 0.4, 1) for p in prompts)


def test_the_digest_sees_every_change():
    prompts, words = asked(12), [["wrong", "gold"]] * 12
    found = pairs(prompts, answers_of(words), gold(prompts), right)
    assert found.train and found.held
    swapped = preferences.Pairs(tuple(p.swapped() for p in found.train), found.held, found.facts)
    moved = preferences.Pairs(found.held, found.train, found.facts)
    assert len({found.digest, swapped.digest, moved.digest}) == 3
    assert swapped.train[0].swapped() == found.train[0]


def test_what_cannot_be_paired_is_named():
    prompts = asked(2)
    answers = {p.id: ["wrong"] for p in prompts}
    with pytest.raises(ConfigError, match="held = 1"):
        pairs(prompts, answers, gold(prompts), right, held=1)
    with pytest.raises(SubjectError, match="stands twice"):
        pairs([*prompts, prompts[0]], answers, gold(prompts), right)
    with pytest.raises(SubjectError, match="'p1': its gold answer is absent"):
        pairs(prompts, answers, {"p0": "gold p0"}, right)
    with pytest.raises(SubjectError, match="'p0': its gold answer is absent or fails"):
        pairs(prompts, answers, {**gold(prompts), "p0": "wrong"}, right)
    assert pairs(prompts, {}, gold(prompts), right).facts["pairs"] == 0


# --- margins --------------------------------------------------------------------------------------

arms = st.builds(LogProbs, logs, logs, st.integers(1, 90), st.integers(1, 90))


def sigmoid_loss(policy: LogProbs, reference: LogProbs, beta: float) -> float:
    """Equation 7 of Rafailov et al. as it is printed: -log sigmoid(beta log pi_w/ref_w - beta log pi_l/ref_l)."""
    gap = beta * (policy.chosen - reference.chosen) - beta * (policy.rejected - reference.rejected)
    return math.log1p(math.exp(-gap)) if gap > -30 else -gap


@checked
@given(arms, arms, st.floats(0.01, 2))
def test_the_margin_is_what_the_loss_is_made_of(policy, reference, beta):
    gap = margin(policy, reference, beta)
    assert sigmoid_loss(policy, reference, beta) == pytest.approx(math.log1p(math.exp(-gap)) if gap > -30 else -gap, abs=1e-9)
    turned = [LogProbs(x.rejected, x.chosen, x.rejected_tokens, x.chosen_tokens) for x in (policy, reference)]
    assert margin(*turned, beta) == pytest.approx(-gap, abs=1e-9)
    assert margin(reference, policy, beta) == pytest.approx(-gap, abs=1e-9)
    assert margin(policy, policy, beta) == 0
    assert margin(policy, reference, 2 * beta) == pytest.approx(2 * gap, abs=1e-9)


def test_the_margin_by_hand():
    assert margin(LogProbs(-3, -9, 2, 2), LogProbs(-4, -8, 2, 2), 0.1) == pytest.approx(0.2)  # chosen + 1, rejected - 1


def test_log_probs_are_sums_and_refuse_what_is_none():
    rows = log_probs([TokenLogprobs("a", ((1, 2), (3,)), ((-0.5, -0.25), (-4.0,)))])
    assert rows == {"a": LogProbs(-0.75, -4.0, 2, 1)}
    for tokens, values in ((((), (3,)), ((), (-1.0,))), (((1,), (3,)), ((-1.0,), (-math.inf,)))):
        with pytest.raises(EngineError, match="pair 'a'"):
            log_probs([TokenLogprobs("a", tokens, values)])


# --- wins at equal length -------------------------------------------------------------------------


def likelihood(a: float, b: float, wins, xs) -> float:
    """The penalized log-likelihood that length_controlled maximizes, by itself."""
    return sum(-math.log1p(math.exp(-(a + b * x) if w else a + b * x)) for w, x in zip(wins, xs, strict=True)) - b * b / 2


@checked
@given(
    st.lists(st.tuples(st.booleans(), st.integers(-40, 40)), min_size=2, max_size=40).filter(lambda rows: len({w for w, _ in rows}) == 2)
)
def test_the_regression_is_at_its_maximum(rows):
    wins, longer = [w for w, _ in rows], [float(x) for _, x in rows]
    rate = length_controlled(wins, longer)
    scale = math.sqrt(sum(x * x for x in longer) / len(longer)) or 1.0
    xs, a = [x / scale for x in longer], math.log(rate / (1 - rate))
    best = max((likelihood(a, k / 200, wins, xs), k / 200) for k in range(-1600, 1601))[1]  # the best slope for this intercept
    for da in (-0.05, 0.05):
        other = max(likelihood(a + da, best + k / 100, wins, xs) for k in range(-20, 21))
        assert other <= likelihood(a, best, wins, xs) + 1e-4


def test_length_is_taken_out_of_the_rate():
    assert length_controlled([True] * 3 + [False], [0.0] * 4) == pytest.approx(0.75)
    assert length_controlled([True, True, False, False], [1, -1, 1, -1]) == pytest.approx(0.5)
    bought = [(True, 10.0)] * 30 + [(False, 10.0)] * 5 + [(True, -10.0)] * 5 + [(False, -10.0)] * 30
    assert length_controlled(*zip(*bought, strict=True)) == pytest.approx(0.5)
    mostly_longer = [(True, 10.0)] * 30 + [(False, 10.0)] * 5 + [(True, -1.0)] * 2 + [(False, -1.0)] * 8
    rate = length_controlled(*zip(*mostly_longer, strict=True))
    assert rate < 0.5 < sum(w for w, _ in mostly_longer) / 45  # won by length: 71% of all, less than half at equal length
    for wins, longer in (([True], [0.0]), ([False, False], [1.0, 2.0]), ([True, False], [1.0])):
        with pytest.raises(ValueError, match="expected both wins and losses"):
            length_controlled(wins, longer)


# --- what the suite makes of answers --------------------------------------------------------------


def answer(item: str, text: str, value: float | None = 0.0, target: str = '{"number":"1","city":"Rome"}') -> Sample:
    return Sample(item, value, status="ok" if value is not None else "parse_failure", detail={"text": text, "target": target})


@pytest.mark.parametrize(
    ("text", "value", "f1"),
    [
        ('{"number":"1","city":"Rome"}', 1.0, 1.0),
        ('{"city":"Rome","number":"1"}', 1.0, 1.0),
        ('{"number":"1"}', 0.0, 2 / 3),
        ('{"number":"1","city":"Rom"}', 0.0, 0.5),
        ('{"number":"2","city":"Rom","zip":"3"}', 0.0, 0.0),
        ("[1]", 0.0, 0.0),
        ("no JSON", None, 0.0),
    ],
)
def test_fields_that_are_right(text, value, f1):
    from suites.prefer.test_wins import fields_right

    assert fields_right(answer("a", text, value)) == pytest.approx(f1)


def test_wins_leave_ties_out_and_say_so():
    from suites.prefer.test_wins import decided

    whole, half, none = '{"number":"1","city":"Rome"}', '{"number":"1","city":"Rom"}', "no JSON"
    rows = [(whole, half), (whole, whole), (half, whole), (half, none), (none, none), (none, half)]
    made = [(answer(f"i{k}", new, None if new == none else 0.0), answer(f"i{k}", old, None if old == none else 0.0))
            for k, (new, old) in enumerate(rows)]  # fmt: skip
    found = decided(made, ())
    assert {s.item: s.value for s in found.samples} == {"i0": 1.0, "i2": 0.0, "i3": 1.0, "i5": 0.0}
    assert found.conditions["ties"] == 2 and found.conditions["items"] == 6
    swapped = decided([(old, new) for new, old in made], ())
    assert {s.item: 1 - s.value for s in swapped.samples} == {s.item: s.value for s in found.samples}
    assert decided([(made[1][0], made[1][1])], ()).samples == ()


class Biased:
    """A judge that prefers the longer answer, or ``always`` what it is shown first."""

    def __init__(self, always: bool = False) -> None:
        self.always = always

    def judge(self, name):
        return name

    def calibrated(self, name):
        return None

    def conditions(self, judge, record):
        return {"judge": "digest", "calibration": None}

    def both_orders(self, judge, pairs):
        def said(first, second):
            return 1.0 if self.always else 0.5 if len(first) == len(second) else float(len(first) > len(second))

        return tuple(Sample(p.id, said(p.first, p.second)) for p in pairs), tuple(Sample(p.id, said(p.second, p.first)) for p in pairs)


def test_a_judge_is_believed_where_both_orders_agree():
    from suites.prefer.test_wins import judged

    texts = [("long answer", "short"), ("short", "long answer"), ("same", "same")]
    made = [tuple(Sample(f"i{k}", 0.0, detail={"text": t, "input": "?"}) for t in pair) for k, pair in enumerate(texts)]
    found = judged(Biased(), "j", made, ())
    assert {s.item: s.value for s in found.samples} == {"i0": 1.0, "i1": 0.0}
    assert found.conditions["ties"] == 1 and found.conditions["calibration"] is None
    assert found.conditions["longer"]["won"] == {"longer": 1} and found.conditions["longer"]["lost"] == {"shorter": 1}
    assert judged(Biased(always=True), "j", made, ()).samples == ()  # position alone wins nothing


def test_the_claims_are_there_where_something_was_preferred():
    from suites.prefer import conftest

    for compare, expected in ((None, ()), (SimpleNamespace(preferred="", primary="a", guardrails=()), ()),
                              (SimpleNamespace(preferred="p", primary="a", guardrails=("b",)), ("p",))):  # fmt: skip
        assert conftest.asked(compare)["preferred"] == expected
        assert conftest.asked(compare)["kept_set"] == (("a", "b") if expected else ())
