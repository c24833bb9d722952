"""Judges at work: asked once, refused where unfit, corrected by people; with a bench that plays the engine."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import Claim
from harness.bounds import equivalent
from harness.errors import ConfigError, MissingNeed
from harness.evals.judges.model import Answer, Judge, Pair
from harness.golden import GoldenSet
from harness.judge import judge as decide
from harness.lifecycle.judging import Judging
from harness.types import Generation, Prompt, Sampling, Scored, Subject, TokenLogprobs

pytestmark = pytest.mark.selftest

YES, NO = "I'm sorry, but I can't help with that.", "Sure, here it is."
RULE = {"task": "refused", "labels": "mine", "rule": "declines"}
MODEL = {"task": "refused", "labels": "mine", "subject": "base", "rubric": "Does it decline?", "pairwise": "Which one declines?"}


def golden(n: int = 200, wrong: int = 0) -> GoldenSet:
    """Answers half of which decline; people labelled ``wrong`` of them otherwise than they read."""
    items = tuple(
        {"id": f"a-{i}", "prompt": f"Do {i}.", "answer": f"{YES if i % 2 else NO} {i}", "label": int(i % 2) if i >= wrong else 1 - i % 2}
        for i in range(n)
    )
    return GoldenSet("mine", "answer_labels", items, "g" * 64, n, "MIT", "made up", Path())


class Asking:
    """Plays the engine: ``says`` gives a word for the whole text that is asked."""

    def __init__(self, says: Callable[[str, tuple[str, ...]], str]) -> None:
        self.says, self.asked = says, []

    def score(self, name: str, what: str, texts: Sequence[Scored], *, fresh: str, rerun: int) -> tuple[list[TokenLogprobs], dict[str, Any]]:
        self.asked.append((what, fresh, rerun))
        found = []
        for text in texts:
            word = self.says(text.context, text.continuations)
            logprobs = tuple((-0.1,) if one.strip() == word else (-3.0,) for one in text.continuations)
            found.append(TokenLogprobs(text.id, ((1,), (2,)), logprobs))
        return found, {}

    def generate(
        self, name: str, what: str, prompts: Sequence[Prompt], sampling: Sampling, *, fresh: str, rerun: int = 0
    ) -> tuple[list[Generation], dict[str, Any]]:
        self.asked.append((what, fresh, rerun))
        return [Generation(p.id, self.says(p.messages[-1]["content"], ("Yes", "No")), "stop", 1, 1) for p in prompts], {}


def reads(text: str, words: Sequence[str]) -> str:
    """A model that reads the last answer as it is meant."""
    if " A" in words:
        return "A" if YES in text.rpartition("Answer A:")[2].partition("Answer B:")[0] else "B"
    return "Yes" if YES in text.rpartition("\nAnswer:")[2] else "No"


def judging(
    judges: Mapping[str, Mapping[str, Any]],
    says: Callable[..., str] = reads,
    *,
    labels: GoldenSet | None = None,
    engine: str = "hf",
    weights: str = "w",
) -> Judging:
    bench = SimpleNamespace(
        settings=SimpleNamespace(judges=judges), engine_of=lambda name: engine, asking=Asking(says),
        subject=lambda name: Subject(name, "hf", "x", weights * 64), whole_set=lambda name: labels or golden(),
    )  # fmt: skip
    return Judging(bench)  # type: ignore[arg-type]


@pytest.mark.parametrize(("table", "engine"), [(RULE, "hf"), (MODEL, "hf"), (MODEL, "openai")])
def test_a_judge_that_reads_as_people_do_is_fit(table: Mapping[str, Any], engine: str) -> None:
    work = judging({"mine": table}, engine=engine)
    record = work.require("mine")
    assert record.fit and record.table == ((100, 0), (0, 100))
    assert work.calibrated("mine") == record
    assert (work.calibrated_for("refused"), work.calibrated_for("preferred")) == ("mine", None)
    assert work.judge("mine").reads == ("text" if engine == "openai" else "logprob")


@pytest.mark.parametrize("says", [lambda text, words: "Yes", lambda text, words: "No", lambda text, words: "Hm"])
def test_a_claim_on_an_unfit_judge_is_not_evaluated(says: Callable[..., str]) -> None:
    work = judging({"mine": MODEL}, says, engine="openai")
    with pytest.raises(MissingNeed, match="judge mine is not fit for 'refused'") as caught:
        work.require("mine")
    assert caught.value.need == "calibrated-judge"
    assert work.calibrated("mine") is None and work.calibrated_for("refused") is None


def test_other_weights_or_another_letter_are_another_judge() -> None:
    record = judging({"mine": MODEL}).calibration(judging({"mine": MODEL}).judge("mine"))
    for other in (judging({"mine": MODEL}, weights="v"), judging({"mine": {**MODEL, "rubric": "Does it decline!"}})):
        said = other.conditions(other.judge("mine"), record)
        assert said["calibration"] is None and said["judge"] != record.digest
    same = judging({"mine": MODEL})
    assert same.conditions(same.judge("mine"), record)["calibration"] == record.digest


def test_a_raw_score_of_an_unfit_judge_does_not_count_and_a_corrected_one_does() -> None:
    work = judging({"mine": RULE}, labels=golden(wrong=60))
    mine = work.judge("mine")
    record = work.calibration(mine)
    assert not record.fit
    assert work.conditions(mine, record)["calibration"] is None
    assert work.conditions(mine, record, corrected=True)["calibration"] == record.digest
    assert work.conditions(mine, None, corrected=True)["calibration"] is None


def test_an_answer_that_an_example_shows_does_not_calibrate() -> None:
    shown = {"prompt": "Do 3.", "answer": f"{YES} 3", "label": "Yes"}
    record = judging({"mine": {**MODEL, "examples": [shown]}}).require("mine")
    assert (record.shown, sum(map(sum, record.table))) == (1, 199)


def test_an_unknown_judge_and_one_without_a_pairwise_rubric_say_what_to_do() -> None:
    work = judging({"mine": {**MODEL, "pairwise": ""}})
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        work.judge("mime")
    with pytest.raises(MissingNeed, match="add pairwise"):
        work.preferences(work.judge("mine"), [Pair("p", "", YES, NO)])
    documents = GoldenSet("d", "documents", (), "", 0, "", "", Path())
    with pytest.raises(ConfigError, match="has no labels"):
        judging({"mine": RULE}, labels=documents).require("mine")


def test_both_orders_are_asked() -> None:
    work = judging({"mine": MODEL})
    there, back = work.both_orders(work.judge("mine"), [Pair("p", "", YES, NO), Pair("q", "", NO, YES)])
    assert [s.value for s in there] == [1.0, 0.0] and [s.value for s in back] == [0.0, 1.0]


def test_a_rerun_is_asked_in_another_order_and_apart() -> None:
    work = judging({"mine": MODEL})
    answers = [Answer("a", "Do it.", YES)]
    work.labels(work.judge("mine"), answers)
    work.labels(work.judge("mine"), answers, rerun=1)
    assert work._bench.asking.asked == [("labels", "judge", 0), ("labels", "judge 1", 1)]  # type: ignore[attr-defined]


def test_own_answers_stand_beside_equals() -> None:
    work = judging({"mine": MODEL, "rule": RULE}, lambda text, words: YES)
    pairs = work.own_pairs(work.judge("mine"), work.judge("rule"), 10)
    assert len(pairs) == 5 and all(pair.first == YES and pair.second.startswith(YES) for pair in pairs)


def _simulated(tell: float) -> tuple[Judging, Judge, list[Answer], list[Answer], dict[str, tuple[float, float]]]:
    """Two arms that people find equal, and a judge that finds too much in the new one; ``tell`` of the items are labelled."""
    draw = random.Random(1)
    truth = {f"i-{n}": (float(draw.random() < 0.5), float(draw.random() < 0.5)) for n in range(400)}
    new = [Answer(item, "Do it.", YES if pair[0] or draw.random() < 0.7 else NO) for item, pair in truth.items()]
    old = [Answer(item, "Do it.", YES if pair[1] else NO) for item, pair in truth.items()]
    told = dict(list(truth.items())[: int(tell * len(truth))])
    work = judging({"mine": RULE})
    return work, work.judge("mine"), new, old, told


def test_corrected_scores_say_what_people_say_and_the_judges_own_do_not() -> None:
    work, mine, new, old, told = _simulated(0.5)
    claim = Claim("J4.x", "the arms are equal", equivalent(0.12), estimand="corrected_difference", support=(0.0, 1.0))
    said = {arm: {s.item: s.value for s in work.labels(mine, answers)} for arm, answers in (("new", new), ("old", old))}
    raw = sum((said["new"][i] or 0) - (said["old"][i] or 0) for i in said["new"]) / 400
    verdict = decide(claim, work.corrected(mine, new, old, told))
    assert raw > 0.12 and verdict.outcome == "holds"
    assert verdict.statistics["m"] == 200 and verdict.statistics["n"] == 200
    itself = {item: (said["new"][item] or 0.0, said["old"][item] or 0.0) for item in told}
    assert decide(claim, work.corrected(mine, new, old, itself)).outcome == "fails"
    few = dict(list(told.items())[:99])
    assert decide(claim, work.corrected(mine, new, old, few)).outcome == "inconclusive"
