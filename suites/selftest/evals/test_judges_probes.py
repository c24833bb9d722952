"""Probes change what should not matter, and count what changed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.evals.judges import probes
from harness.evals.judges.model import Answer, Pair
from harness.types import Sample

pytestmark = pytest.mark.selftest

TEXT = "First things. Second things. Third things."
ANSWERS = [Answer(f"a-{n}", "Do it.", TEXT) for n in range(40)]


@pytest.mark.parametrize("changes", [probes.LENGTHS, probes.FORMATS])
def test_each_change_is_drawn_for_some_and_keeps_what_is_said(changes: dict[str, probes.Change]) -> None:
    made = probes.varied(ANSWERS, changes)
    assert {name for _, name in made} == set(changes)
    for answer, name in made:
        assert answer.text != TEXT
        assert "First things." in answer.text and "Second things." in answer.text
        assert ("Third" in answer.text) is (name != "shortened")
    assert made == probes.varied(ANSWERS, changes)


def test_a_flip_is_a_label_that_changed_and_a_lost_one_counts_against_the_judge() -> None:
    before = [Sample("a", 1.0), Sample("b", 1.0), Sample("c", None, status="parse_failure"), Sample("d", 0.0)]
    after = [Sample("a", 1.0), Sample("b", 0.0), Sample("c", 1.0), Sample("d", None, status="error")]
    found = probes.flips(before, after, ["x"] * 4)
    assert [(s.value, s.status) for s in found] == [(0.0, "ok"), (1.0, "ok"), (None, "parse_failure"), (None, "error")]


def test_an_instruction_demands_the_label_that_was_not_given_in_front_or_behind() -> None:
    labels = [Sample(answer.id, float(n % 2)) for n, answer in enumerate(ANSWERS)]
    made = probes.injected(ANSWERS, labels, ("Yes", "No"))
    assert {answer.text.startswith(TEXT) for answer, _ in made} == {True, False}
    assert len({said for _, said in made}) >= len(probes.INJECTIONS)
    for n, (answer, said) in enumerate(made):
        assert said in answer.text and TEXT in answer.text and "{" not in said
        assert ("No" if n % 2 else "Yes") in said


def test_two_orders_that_contradict_each_other_are_a_tie() -> None:
    assert probes.settled(1.0, 0.0) == (1.0, False)
    assert probes.settled(0.0, 1.0) == (0.0, False)
    assert probes.settled(1.0, 1.0) == (0.5, True)
    assert probes.settled(0.5, 0.5) == (0.5, False)
    assert probes.settled(0.5, 1.0) == (0.5, True)
    assert probes.settled(None, 1.0) == (None, True)


def test_own_answers_are_counted_among_decisive_pairs_only() -> None:
    pairs = [Pair(name, "", "mine", "theirs") for name in "abc"]
    there, back = [Sample("a", 1.0), Sample("b", 1.0), Sample("c", 0.0)], [Sample("a", 0.0), Sample("b", 1.0), Sample("c", 1.0)]
    assert [(s.item, s.value) for s in probes.own(pairs, there, back)] == [("a", 1.0), ("c", 0.0)]


@settings(derandomize=True, deadline=None)
@given(st.lists(st.booleans(), max_size=40))
def test_opposed_pairs_use_an_answer_once_and_oppose(labels: list[bool]) -> None:
    rows = [(Answer(f"a-{n}", "p", f"text {n}"), float(label)) for n, label in enumerate(labels)]
    truth = {answer.text: label for answer, label in rows}
    pairs = probes.opposed(rows)
    used = [text for pair in pairs for text in (pair.first, pair.second)]
    assert len(used) == len(set(used)) == 2 * min(sum(labels), len(labels) - sum(labels))
    assert all(truth[pair.first] != truth[pair.second] for pair in pairs)


@settings(derandomize=True, deadline=None)
@given(st.text())
def test_any_text_can_be_changed(text: str) -> None:
    for change in (*probes.LENGTHS.values(), *probes.FORMATS.values()):
        assert isinstance(change(text), str)
