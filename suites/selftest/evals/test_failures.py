"""Types of failures: each by an example, both rules against each other and against planted errors of a known type."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.evals import failures
from harness.stats import families, paired
from harness.types import Sample

pytestmark = pytest.mark.selftest

ADDRESS = "12 Heather Lane Apt 4, Round Pond, ME 04564"
TARGET = {"number": "12", "street": "Heather Lane", "unit": "Apt 4", "city": "Round Pond", "state": "ME", "zip": "04564"}


def sample(answer, *, target=TARGET, shown=ADDRESS, value=0.0, status="ok", item="a"):
    text = answer if isinstance(answer, str) else json.dumps(answer)
    detail = {"input": shown, "target": json.dumps(target), "text": text, "finish": "stop"}
    return Sample(item, value if status == "ok" else None, status=status, detail=detail)


def without(*keys, **changed):
    return {**{k: v for k, v in TARGET.items() if k not in keys}, **changed}


HELD_OUT = ["addr-0002", "addr-0003", "addr-0006", "addr-0007", "addr-0008", "addr-0011"]

OBJECTS = [
    ("copying", without(street="Hera Lane")),
    ("copying", without(state="Maine")),
    ("invented", without(country="USA")),
    ("invented", without(po_box="Pond")),
    ("missing", without("unit")),
    ("missing", without(unit="4")),
    ("segmentation", without(street="Heather Lane Apt", unit="4")),
    ("segmentation", without("unit", street="Heather Lane Apt 4")),
    ("wrong_field", without("unit", po_box="Apt 4")),
    ("wrong_field", without(city="ME", state="Round Pond")),
    ("copying", without(country="Round USA")),  # partly of the input: miscopied, not made up
    ("segmentation", without("unit", street="Heather Lane Apt 4", city="ME", state="Round Pond")),  # the first that applies
    ("casing", without(city="round pond,")),
]


@pytest.mark.parametrize(("expected", "answer"), OBJECTS)
def test_both_rules_follow_the_code_book(expected, answer):
    (found,) = failures.analysed([sample(answer)])
    assert (found.type, found.second) == (expected, expected)
    assert found.fields == tuple(sorted(k for k in {*TARGET, *answer} if TARGET.get(k) != answer.get(k)))


@pytest.mark.parametrize(
    ("expected", "text", "status"),
    [
        ("error", "", "error"),
        ("truncated", '{"number": "12', "truncated"),
        ("empty", " \n", "parse_failure"),
        ("not_json", "Sure! Here it is", "parse_failure"),
        ("not_json", '["12"]', "ok"),
        ("not_json", '{"number": "1", "number": "2"}', "parse_failure"),
    ],
)
def test_what_cannot_be_read_is_typed_by_why(expected, text, status):
    (found,) = failures.analysed([sample(text, status=status)])
    assert (found.type, found.second, found.fields) == (expected, expected, ())


def test_a_target_that_is_no_object_has_no_field_to_compare():
    (found,) = failures.analysed([Sample("q", 0.0, detail={"input": "Why?", "text": '{"a": "b"}', "target": "commute"})])
    assert found.type == "other"


def test_every_failure_is_listed_and_nothing_else():
    rows = [sample(TARGET, value=1.0, item="right"), sample({}, item="wrong"), sample("", status="error", item="lost")]
    assert [f.item for f in failures.analysed(rows)] == ["wrong", "lost"]


WORDS = st.text("abcdefghij", min_size=2, max_size=6)
OBJECT = st.dictionaries(st.sampled_from("abcdef"), st.lists(WORDS, min_size=1, max_size=3, unique=True), min_size=2, max_size=5)


def apart(fields):
    """Fields without a word in common: then each planted error has one true type."""
    words = [w for value in fields.values() for w in value]
    return len(set(words)) == len(words)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(OBJECT.filter(apart), st.data())
def test_planted_errors_get_their_type_from_both_rules(fields, data):
    target = {key: " ".join(words) for key, words in fields.items()}
    shown = " ".join(target.values())
    key = data.draw(st.sampled_from(sorted(fields)))
    rest = {k: v for k, v in target.items() if k != key}
    other = data.draw(st.sampled_from(sorted(rest)))
    planted = {
        "missing": rest,
        "copying": {**target, key: target[key] + " ZZZ"},
        "invented": {**target, "new": "zzz"},
        "wrong_field": {**rest, "new": target[key]},
        "casing": {**target, key: target[key].upper()},
        "segmentation": {**rest, other: f"{target[other]} {target[key]}"},
    }
    for expected, answer in planted.items():
        (found,) = failures.analysed([sample(answer, target=target, shown=shown)])
        assert (found.type, found.second) == (expected, expected), answer


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    OBJECT,
    st.dictionaries(
        st.sampled_from("abcdefg"), st.one_of(WORDS, st.integers(), st.none(), st.just(""), st.lists(WORDS, max_size=2)), max_size=5
    ),
    st.text(max_size=40),
)
def test_any_answer_gets_a_known_type_from_both_rules(fields, answer, shown):
    target = {key: " ".join(words) for key, words in fields.items()}
    (found,) = failures.analysed([sample(answer, target=target, shown=shown)])
    assert found.type in failures.TYPES
    assert found.second in failures.TYPES


def test_clusters_count_every_failure_once_largest_first():
    found = failures.analysed([sample(answer, item=str(i)) for i, (_, answer) in enumerate(OBJECTS)] + [sample(without("unit"), item="x")])
    groups = failures.clusters(found, examples=1)
    assert sum(g.n for g in groups) == len(found)
    assert [g.n for g in groups] == sorted((g.n for g in groups), reverse=True)
    assert (groups[0].type, groups[0].fields, groups[0].n) == ("missing", ("unit",), 3)
    assert all(len(g.examples) == 1 for g in groups)


def test_a_blind_sheet_names_no_type_and_no_arm():
    found = failures.analysed([sample(answer, item=str(i)) for i, (_, answer) in enumerate(OBJECTS)])
    sheet = failures.blind_rows(found)
    assert {row["item"] for row in sheet} == {f.item for f in found}
    assert [row["item"] for row in sheet] != [f.item for f in found]
    assert all(set(row) == {"item", "input", "target", "answer"} for row in sheet)


def test_the_halves_are_fixed_for_good_and_about_equal():
    """Another split would call items held out whose failures were read."""
    items = [f"addr-{n:04}" for n in range(1, 561)]
    assert sum(map(failures.mined, items)) == 284
    assert [item for item in items[:12] if not failures.mined(item)] == HELD_OUT


def test_slices_are_exploratory_and_adjusted():
    def arm(right):
        return [sample(TARGET, item=str(n), value=float(right(n)), shown="x" * n) for n in range(1, 61)]

    new, old = arm(lambda n: True), arm(lambda n: n > 20)
    rows = failures.slices(new, old)
    assert {r["slice"] for r in rows} >= {"length: short", "length: middle", "length: long", "has unit", "has zip"}
    assert all(r["exploratory"] for r in rows)
    short = next(r for r in rows if r["slice"] == "length: short")
    assert (short["b"], short["c"]) == (20, 0)
    assert short["p"] == pytest.approx(2 * paired.mcnemar(20, 0).p_hold)
    assert [r["p_adjusted"] for r in rows] == pytest.approx(families.benjamini_hochberg([r["p"] for r in rows]), abs=1e-6)
    assert failures.slices([], []) == []
