"""Calibration texts: the same for the same seed, others for another, and never a golden item in disguise."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import golden
from harness.errors import ConfigError
from harness.quant.calibration import Row, canonical, choose, golden_texts, leaks

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).resolve().parents[3]
EXAM = "A researcher asks nine (9) people, none of them paid, whether they'd drink decaf again."


# --- choosing ------------------------------------------------------------------------------------

rows = st.lists(st.integers(0, 999), min_size=2, max_size=30, unique=True).map(lambda ns: [Row(f"r{n}", f"text {n}") for n in ns])


@settings(derandomize=True, deadline=None)
@given(rows, st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_sample_depends_on_seed_and_rows_and_not_on_their_order(given_rows, seed, random):
    shuffled = random.sample(given_rows, len(given_rows))
    first, again = choose(given_rows, 4, 8, seed), choose(shuffled, 4, 8, seed)
    assert first == again and first.digest == again.digest
    assert sorted(r.id for r in first.rows) == sorted(r.id for r in given_rows)  # an order: nothing is lost or doubled


def test_another_seed_draws_other_rows():
    pool = [Row(f"r{n}", f"text {n}") for n in range(400)]
    heads = [{r.id for r in choose(pool, 4, 8, seed).rows[:100]} for seed in range(4)]
    overlap = [len(a & b) for a in heads for b in heads if a is not b]
    assert all(5 < n < 45 for n in overlap)  # 25 expected by chance, standard deviation 3.8


@pytest.mark.parametrize("change", [{"n": 5}, {"tokens": 9}, {"seed": 1}])
def test_the_digest_knows_what_shapes_the_blocks(change):
    pool = [Row("a", "one"), Row("b", "two", ({"role": "user", "content": "two"},))]
    settings = {"n": 4, "tokens": 8, "seed": 0}
    assert choose(pool, **settings).digest != choose(pool, **settings | change).digest
    assert choose(pool, **settings).digest != choose([pool[0], Row("b", "two")], **settings).digest


@pytest.mark.parametrize(
    ("pool", "n", "tokens", "said"),
    [([], 4, 8, "no calibration rows"), ([Row("a", "x")], 0, 8, "0 blocks"), ([Row("a", "x"), Row("a", "y")], 1, 1, "the same id")],
)
def test_what_cannot_be_drawn_is_refused(pool, n, tokens, said):
    with pytest.raises(ConfigError, match=said):
        choose(pool, n, tokens, 0)


# --- leaks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "disguise",
    [
        EXAM,
        EXAM.upper(),
        "  A researcher asks nine 9 people none of them paid whether theyd drink decaf again ",
        EXAM.replace(" ", "\n"),
        "Ａ ｒｅｓｅａｒｃｈｅｒ asks nine (9) people—none of them paid—whether they’d drink decaf again!!",
    ],
    ids=["as it is", "case", "punctuation", "lines", "forms"],
)
def test_a_golden_item_is_found_in_disguise(disguise):
    (leak,) = leaks({"mine": disguise, "other": "nothing to see"}, {"exam/1": EXAM, "exam/2": "another one"})
    assert (leak.text, leak.item, leak.why) == ("mine", "exam/1", "the same text")


def test_eight_words_in_a_row_are_a_leak_and_seven_are_none():
    item = "one two three four five six seven eight nine ten"
    eight = "and then, zero. Two three four five six SEVEN eight nine! zero"
    (leak,) = leaks({"mine": eight}, {"item": item})
    assert leak.why == "8 words in a row" and leak.evidence == "two three four five six seven eight nine"
    assert leaks({"mine": eight.replace("nine", "none")}, {"item": item}) == []


def test_a_short_item_is_found_only_as_a_whole():
    assert leaks({"mine": "Springfield, IL"}, {"item": "SPRINGFIELD IL."})
    assert leaks({"mine": "12 Main Street, Springfield, IL"}, {"item": "Springfield IL"}) == []
    assert leaks({"mine": "?!", "empty": ""}, {"item": "...", "none": ""}) == []


def test_every_item_is_named_once():
    found = leaks({"mine": f"{EXAM} {EXAM}"}, {"a": EXAM, "b": f"so: {EXAM}"})
    assert [(leak.item, leak.why) for leak in found] == [("a", "8 words in a row"), ("b", "8 words in a row")]


words = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=12)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(words, max_size=5), st.lists(words, max_size=5))
def test_leaks_are_those_of_comparing_every_pair(texts, items):
    def shares(a, b):
        runs = [{tuple(x[i : i + 8]) for i in range(len(x) - 7)} for x in (a, b)]
        return bool(runs[0] & runs[1]) or ("".join(a) == "".join(b) != "")

    found = leaks({str(i): " ".join(t) for i, t in enumerate(texts)}, {str(i): " ".join(t) for i, t in enumerate(items)})
    expected = {(str(i), str(j)) for i, a in enumerate(texts) for j, b in enumerate(items) if shares(a, b)}
    assert {(leak.text, leak.item) for leak in found} == expected and len(found) == len(expected)


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=40))
def test_canonical_words_are_stable(text):
    words = canonical(text)
    assert canonical(" ".join(words)) == words == canonical(f"?{text}\n")
    assert canonical(text.upper().lower()) == canonical(text.upper())


def test_the_committed_calibration_rows_share_nothing_with_any_golden_set():
    """What claim Q8 rests on, and its planted control: the check finds a golden item slipped in."""
    items = {}
    for name in golden.names(ROOT / "golden"):
        items.update(golden_texts(golden.load(name, ROOT / "golden")))
    texts = {i["id"]: i["text"] for i in golden.load("calibration", ROOT / "fixtures").items}
    texts |= {i["id"]: i["input"] for i in golden.load("calibration_addresses", ROOT / "fixtures").items}
    assert len(texts) == 1230 and leaks(texts, items) == []
    for name in ("addresses/addr-0001", "exam_text/exam-0001", "commonsense/csqa-0001"):
        planted = {**texts, "planted": items[name].swapcase().replace(",", " ;")}
        assert name in {leak.item for leak in leaks(planted, items) if leak.text == "planted"}
