"""Scorers: each answer gets the score that its item's rule gives it, and an answer that is none gets no value."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import evals
from harness.errors import GoldenError, MissingNeed
from harness.evals import scorers
from harness.evals.scorers import choice, code, numbers, structured, texts
from harness.golden import GoldenSet
from harness.types import Generation, TokenLogprobs

pytestmark = pytest.mark.selftest

CAPITAL = {"id": "i", "prompt": "The capital of France?", "target": "Paris"}


def answer(text, finish="stop"):
    return Generation("i", text, finish, 5, 3, "digest", "it broke" if finish == "error" else "")


def value(name, text, item, **options):
    sample = scorers.scorer(name, **options)(answer(text), item)
    return sample.value if sample.status == "ok" else sample.status


def golden(items, kind="answers", **more):
    return GoldenSet("mine", kind, tuple(items), "digest", len(items), "MIT", "made up", Path("mine.jsonl"), **more)


ITEMS = {
    "json": {"id": "i", "input": "5 Main St", "target": {"number": "5", "street": "Main St"}},
    "fields": {"id": "i", "input": "5 Main St", "target": {"number": "5", "street": "Main St"}},
    "exact": CAPITAL,
    "numeric": {"id": "i", "prompt": "6 times 7?", "target": 42},
    "regex": CAPITAL,
    "letter": {"id": "i", "question": "Which?", "choices": ["this", "that"], "answer": 1},
    "code": {"id": "i", "prompt": "Write double(x).", "tests": "assert double(2) == 4", "entry_point": "double"},
    "similarity": CAPITAL,
}
OPTIONS = {"regex": {"pattern": "Paris"}}


# --- common to all ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", scorers.SCORERS)
@pytest.mark.parametrize(("finish", "status"), [("error", "error"), ("length", "truncated")])
def test_an_answer_that_broke_off_has_no_value_under_any_scorer(name, finish, status):
    sample = scorers.scorer(name, **OPTIONS.get(name, {}))(answer("Paris", finish), ITEMS[name])
    assert (sample.value, sample.status, sample.detail["text"]) == (None, status, "Paris")
    assert sample.detail.get("error") == ("it broke" if finish == "error" else None)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"name": "exakt"}, "no scorer 'exakt'; did you mean 'exact'"),
        ({"name": "exact", "normalise": ["case"]}, "unknown option 'normalise'; did you mean 'normalize'"),
        ({"name": "exact", "normalize": ["upper"]}, "expected steps out of nfkc, case"),
        ({"name": "exact", "normalize": "case"}, "normalize = 'case', expected a tuple"),
        ({"name": "numeric", "tolerance": "1"}, "tolerance = '1', expected a float"),
        ({"name": "numeric", "tolerance": -1}, "0 or more"),
        ({"name": "numeric", "take": "middle"}, "expected one of whole, last"),
        ({"name": "regex"}, "option 'pattern' is missing"),
        ({"name": "regex", "pattern": "("}, "no regular expression"),
        ({"name": "similarity", "metric": "rouge"}, "expected one of ratio"),
        ({"name": "json", "fields": 1}, "expected a bool"),
    ],
)
def test_a_scorer_that_cannot_be_meant_is_refused_by_name(said, complaint):
    with pytest.raises(GoldenError, match=complaint.replace("(", r"\(")):
        scorers.of_set(golden([CAPITAL], scorer=said))


def test_the_item_decides_then_the_set_then_the_kind():
    plain, own = CAPITAL, {**CAPITAL, "id": "j", "scorer": {"name": "regex", "pattern": "Par"}}
    assert scorers.of_item(golden([plain]), plain) == scorers.scorer("exact")
    with_set = golden([plain, own], scorer={"name": "exact", "normalize": ["case"]})
    assert scorers.of_item(with_set, plain).options == {"normalize": ["case"]}
    assert scorers.of_item(with_set, own).name == "regex"
    rows = scorers.score(with_set, [Generation(i, "PARIS", "stop", 1, 1) for i in ("i", "j")])
    assert [row.value for row in rows] == [1.0, 0.0]
    with pytest.raises(GoldenError, match="item 'j': no scorer 'odd'"):
        scorers.of_item(golden([own]), {**own, "scorer": "odd"})
    with pytest.raises(GoldenError, match="kind 'documents' has no scorer"):
        scorers.of_set(golden([], "documents"))


def test_a_digest_is_of_code_and_options():
    digests = {scorers.scorer(name, **OPTIONS.get(name, {})).digest for name in scorers.SCORERS}
    assert len(digests) == len(scorers.SCORERS)
    assert scorers.scorer("numeric", tolerance=0.1).digest != scorers.scorer("numeric").digest == scorers.scorer("numeric").digest
    one, other = golden([CAPITAL]), golden([{**CAPITAL, "scorer": "numeric"}])
    assert scorers.digest(one) != scorers.digest(other)


# --- JSON ---------------------------------------------------------------------------------------


def test_the_detail_of_an_extraction_has_the_keys_it_always_had():
    item = ITEMS["json"]
    (row,) = evals.score_answers(golden([item], "json_extraction"), [answer('{"number":"5","street":"Main St"}')])
    assert json.dumps(dict(row.detail)) == json.dumps(
        {
            "input": "5 Main St", "text": '{"number":"5","street":"Main St"}', "target": '{"number":"5","street":"Main St"}',
            "finish": "stop", "tokens": 3, "prompt": "digest",
        }
    )  # fmt: skip
    assert (row.value, row.status) == (1.0, "ok")


@pytest.mark.parametrize("text", ["", "no", '{"number":"5"', '{"a":"1","a":"1"}', "NaN", "[" * 100_000])
def test_what_no_strict_reader_takes_is_a_parse_failure(text):
    assert value("json", text, ITEMS["json"]) == "parse_failure"


def test_each_field_is_right_wrong_missing_or_invented():
    item = {"id": "i", "input": "", "target": {"a": "1", "b": "2", "c": "3"}}
    sample = scorers.scorer("json", fields=True)(answer('{"a":"1","b":"9","d":"4"}'), item)
    assert sample.value == 0.0
    assert sample.detail["fields"] == {"right": ["a"], "wrong": ["b"], "missing": ["c"], "invented": ["d"]}
    assert sample.detail["f1"] == round(2 / 6, 9) and value("fields", '{"a":"1","b":"9","d":"4"}', item) == pytest.approx(1 / 3)
    assert value("fields", "[]", item) == 0.0


objects = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["1", "2"]))


@settings(derandomize=True, deadline=None)
@given(objects, objects.filter(bool))
def test_field_f1_is_that_of_the_pairs_as_sets(got, target):
    ours, theirs = set(got.items()), set(target.items())
    hits = len(ours & theirs)
    oracle = 2 * hits / (len(ours) + len(theirs))
    found = structured.f1(structured.per_field(got, target))
    assert math.isclose(found, oracle, abs_tol=1e-12) and (found == 1.0) is (got == target)


# --- texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target", "normalize", "expected"),
    [
        ("Paris", "Paris", None, 1.0),
        (" Paris\n", "Paris", None, 1.0),
        ("paris", "Paris", None, 0.0),
        ("paris", "Paris", ["case"], 1.0),
        ("The Paris!", "paris", ["case", "punctuation", "articles"], 1.0),
        ("Pａris", "Paris", None, 1.0),  # full width
        ("Paris is it", "Paris", None, 0.0),
        ("Lutetia", ["Paris", "Lutetia"], None, 1.0),
        ("", "Paris", None, "parse_failure"),
        (" \n", "Paris", None, "parse_failure"),
        ("42", 42, None, 1.0),
    ],
)
def test_exact(text, target, normalize, expected):
    options = {} if normalize is None else {"normalize": normalize}
    assert value("exact", text, {**CAPITAL, "target": target}, **options) == expected


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("It is Paris.", {"pattern": "(?i)paris"}, 1.0),
        ("It is Rome.", {"pattern": "(?i)paris"}, 0.0),
        ("Answer: Paris", {"pattern": r"Answer:\s*(\w+)"}, 1.0),
        ("Answer: Rome. Answer: Paris", {"pattern": r"Answer:\s*(\w+)"}, 0.0),
        ("Answer: Rome. Answer: Paris", {"pattern": r"Answer:\s*(\w+)", "last": True}, 1.0),
        ("Paris", {"pattern": r"Answer:\s*(\w+)"}, "parse_failure"),
    ],
)
def test_regex(text, options, expected):
    assert value("regex", text, CAPITAL, **options) == expected


def test_similarity_is_one_for_equal_texts_and_the_likest_target_counts():
    pytest.importorskip("rapidfuzz")
    pytest.importorskip("sacrebleu")
    long = {**CAPITAL, "target": ["Rome is in Italy", "Paris is the capital of France"]}
    for metric in texts._METRICS:
        same = value("similarity", "Paris is the capital of France", long, metric=metric)
        near = value("similarity", "Paris is the capital of Spain", long, metric=metric)
        far = value("similarity", "zzz", long, metric=metric)
        assert same == pytest.approx(1.0) and 0 <= far < near < 1, metric
    assert value("similarity", "capital Paris", {**CAPITAL, "target": "Paris capital"}, metric="token_sort") == 1.0


@pytest.mark.parametrize(("metric", "library"), [("ratio", "rapidfuzz"), ("chrf", "sacrebleu")])
def test_similarity_without_its_library_names_the_install(monkeypatch, metric, library):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    texts._measure.cache_clear()
    monkeypatch.setattr(texts.importlib, "import_module", missing)
    with pytest.raises(MissingNeed, match=rf"similarity: {library} is not installed.*doctor --install similarity"):
        value("similarity", "a", CAPITAL, metric=metric)


# --- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "take", "expected"),
    [
        ("42", "whole", 42),
        ("$1,234.50", "whole", 1234.5),
        ("12.5 kg", "whole", 12.5),
        ("-3", "whole", -3),
        ("−3", "whole", -3),
        ("3/4", "whole", 0.75),
        (r"\frac{3}{4}", "whole", 0.75),
        ("1e3 m/s", "whole", 1000),
        ("12%", "whole", 12),
        ("3 and 4", "whole", None),
        ("The answer is 42, I think.", "whole", None),
        ("The answer is 42.", "last", 42),
        ("From 3 to 4", "last", 4),
        ("From 3 to 4", "first", 3),
        (r"So \boxed{41} or rather \boxed{42}.", "boxed", 42),
        (r"\boxed{\frac{1}{2}}", "boxed", 0.5),
        ("42", "boxed", None),
        ("", "whole", None),
        ("none", "last", None),
        ("1/0", "whole", None),
        ("1" * 5000, "last", None),
        ("1e999999999", "last", None),
    ],
)  # fmt: skip
def test_number_in(text, take, expected):
    found = numbers.number_in(text, take)
    assert found == expected if expected is None else float(found) == expected


@settings(derandomize=True, deadline=None)
@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**12), max_value=10**12),
    st.sampled_from(["", " kg", " m", " €"]),
)
def test_a_number_with_its_unit_is_read_back_in_any_dress(number, unit):
    for shown in (f"{number:f}{unit}", f"{number:,f}{unit}"):
        assert numbers.number_in(shown) == number
        assert numbers.number_in(f"so it is {shown}", "last") == number


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("42", {}, 1.0),
        ("42.0", {}, 1.0),
        ("42.1", {}, 0.0),
        ("42.1", {"tolerance": 0.1}, 1.0),
        ("42.2", {"tolerance": 0.1}, 0.0),
        ("42.4", {"relative": 0.01}, 1.0),
        ("it is 42", {"take": "last"}, 1.0),
        ("many", {}, "parse_failure"),
    ],
)
def test_numeric(text, options, expected):
    assert value("numeric", text, ITEMS["numeric"], **options) == expected


def test_a_target_that_is_no_number_is_an_error_of_the_item():
    assert value("numeric", "42", {**CAPITAL}) == "error"


# --- choices ------------------------------------------------------------------------------------

CHOICES = ["red", "green", "blue", "A bird"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", 1), ("b", 1), ("(B)", 1), ("B.", 1), ("B. green", 1), ("B) green", 1), ("**B**", 1), ("Answer: B", 1),
        ("The answer is (C).", 2), ("The correct answer is C", 2), ("green", 1), ("Green.", 1), ("A bird", 3), ("I choose option D", 3),
        ("", None), ("E", None), ("A or B", None), ("(A) or (B)", None), ("Answer: A. Answer: B", None), ("I do not know", None),
        ("A bird is what I see", None),
    ],
)  # fmt: skip
def test_letter_in(text, expected):
    assert choice.letter_in(text, CHOICES) == expected


@given(st.text(max_size=40))
@settings(derandomize=True, deadline=None)
def test_letter_in_is_total(text):
    assert choice.letter_in(text, CHOICES) in (None, 0, 1, 2, 3)


def test_a_letter_is_asked_for_and_scored():
    item = {"id": "i", "question": "Which?", "choices": CHOICES, "answer": 1}
    mine = golden([item], "multiple_choice")
    (prompt,) = evals.letters(mine)
    assert prompt.messages[0]["content"].splitlines()[:3] == ["Which?", "A. red", "B. green"]
    assert [value("letter", text, item) for text in ("B", "C", "perhaps")] == [1.0, 0.0, "parse_failure"]
    assert evals.score_answers(mine, [answer("B")])[0].value == 1.0


def test_acc_and_acc_norm_pick_differently_where_a_choice_is_long():
    item = {"id": "i", "question": "Which?", "choices": ["no", "certainly not"], "answer": 1}
    scores = TokenLogprobs("i", ((1,), (1, 2)), ((-2.0,), (-1.5, -1.5)))
    mine = golden([item], "multiple_choice")
    (norm,), (plain,) = evals.score_choices(mine, [scores]), evals.score_choices(mine, [scores], normalized=False)
    assert (norm.value, plain.value) == (1.0, 0.0)
    assert norm.detail["per_byte"] == [-1.0, round(-3 / 13, 6)] and plain.detail["sums"] == [-2.0, -3.0]


# --- code ---------------------------------------------------------------------------------------

PYTHON = {**ITEMS["code"], "prompt": 'from math import floor\n\ndef double(x):\n    """Twice x."""\n'}


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("def double(x):\n    return x * 2\n", ITEMS["code"]),
        ("Sure!\n```python\ndef double(x):\n    return x * 2\n```\nIt doubles.", ITEMS["code"]),
        ("```\ndef double(x):\n    return x * 2", ITEMS["code"]),  # the fence was never closed
        ("double = lambda x: x * 2", ITEMS["code"]),
        ("    return floor(x * 2)\n", PYTHON),  # a completion
        ("def double(x):\n    return floor(x * 2)\n", PYTHON),  # the whole function, relying on the prompt's import
    ],
)
def test_code_is_found_in_an_answer_and_runs(text, item):
    sample = scorers.scorer("code")(answer(text), item)
    assert (sample.value, sample.detail["outcome"]) == (1.0, "pass"), sample.detail["reason"]
    assert any(sample.detail["isolation"].values())


def test_wrong_code_is_wrong_and_says_why():
    mine = golden([ITEMS["code"]], "code")
    (row,) = evals.score_answers(mine, [answer("def double(x):\n    return x\n")])
    assert (row.value, row.status, row.detail["outcome"]) == (0.0, "ok", "fail") and "double(2) == 4" in row.detail["reason"]
    (row,) = evals.score_answers(mine, [answer("I would rather not.")])
    assert (row.value, row.detail["outcome"]) == (0.0, "error")


def test_a_prompt_in_words_lends_no_code():
    assert code.context_of(ITEMS["code"]) == "" and code.context_of(PYTHON) == PYTHON["prompt"]


# --- asking -------------------------------------------------------------------------------------


def test_each_kind_is_asked_with_its_prompt_and_room():
    mine = golden([CAPITAL], prompt="Briefly: {input}")
    assert [p.messages[0]["content"] for p in evals.prompts(mine)] == ["Briefly: The capital of France?"]
    assert evals.sampling(golden([], "json_extraction")) == evals.SAMPLING
    assert evals.sampling(mine).max_tokens == 256 < evals.sampling(golden([], "code")).max_tokens
    assert evals.task_digest(mine) != evals.task_digest(golden([CAPITAL]))
    with pytest.raises(GoldenError, match="kind 'documents', expected 'json_extraction' or 'answers' or 'code'"):
        evals.prompts(golden([], "documents"))


def test_a_set_is_scored_through_an_engine_by_its_own_scorer():
    from harness.engines.fake import Fake

    found = evals.scored(Fake({"i": "PARIS"}), golden([CAPITAL], scorer={"name": "exact", "normalize": ["case"]}))
    assert (found.metric, [s.value for s in found.samples]) == ("exact:mine", [1.0])
    assert len(found.conditions["scorer"]) == 64
